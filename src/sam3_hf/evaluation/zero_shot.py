"""`ZeroShotDetector`: transformers' open-vocabulary detectors asked like SAM 3, for comparison.

OWL-ViT and OWLv2, Grounding DINO (also MM Grounding DINO) and OmDet-Turbo.  They give boxes and no masks;
`MasksOfBoxes` draws these by the click prompts of SAM 3.  Inputs and
scores are those of transformers' processors; pictures go through their Pillow image processors whatever else is
installed, so that no optional package changes a figure.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from ..data.examples import ConceptExample
from ..hub import local_directory
from ..modeling import Sam3Model
from ..ops.boxes import box_cxcywh_to_xyxy, clip_boxes_to_pixels
from ..ops.masks import rle_encode
from ..ops.nms import box_nms
from ..processing import Sam3Processor
from ..processing.images import load_image
from ..processing.postprocess import post_process_masks
from .predictions import ConceptPrediction, Rle

__all__ = ["DETECTORS", "MasksOfBoxes", "ZeroShotDetector"]

DETECTORS = ("owlvit", "owlv2", "grounding-dino", "mm-grounding-dino", "omdet-turbo")
_OWL_TOKENS, _OMDET_TOKENS = 16, 77
_OMDET_NMS = 0.5  # transformers' default for OmDet-Turbo; the other detectors are used without suppression
_BOXES_AT_ONCE = 32
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]


class MasksOfBoxes:
    """A SAM 3 model that draws the mask of the object in a box.

    Args:
        name: directory or repository on the hub, of a whole model.
        device, dtype: as for a model.
    """

    def __init__(self, name: str | os.PathLike[str], device: Any = "cpu", dtype: Any = "auto") -> None:
        self.model = Sam3Model.from_pretrained(name, dtype=dtype).eval().to(device)
        self.processor = Sam3Processor(size=self.model.config.image_size)

    @torch.inference_mode()
    def on(self, picture: Tensor) -> Callable[[np.ndarray], list[Rle]]:
        """From boxes (n, 4) xyxy in pixels to masks: a function for one picture (3, height, width), encoded once."""
        size = (int(picture.shape[1]), int(picture.shape[2]))
        pixels = self.processor(images=picture)["pixel_values"]
        embeddings = self.model.get_image_embeddings(pixels.to(self.model.device, self.model.dtype))

        @torch.inference_mode()
        def draw(boxes: np.ndarray) -> list[Rle]:
            inside = clip_boxes_to_pixels(torch.as_tensor(boxes, dtype=torch.float64), size)
            codes: list[Rle] = []
            for start in range(0, len(inside), _BOXES_AT_ONCE):
                shown = [inside[start : start + _BOXES_AT_ONCE].tolist()]
                given = self.processor(input_boxes=shown, original_sizes=[size], prompt_kind="objects")["input_boxes"]
                answer = self.model.segment_objects(
                    image_embeddings=embeddings, input_boxes=given.to(self.model.device), multimask_output=False
                )
                codes += rle_encode(post_process_masks(answer.pred_masks, [size])[0][:, 0])
            return codes

        return draw


class ZeroShotDetector:
    """A detector with its tokenizer and image processor.

    Args:
        name: directory or repository on the hub.
        device, dtype: as for a model.
        phrases_at_once: phrases asked in one question. OWL gives the same answers for any number; Grounding DINO and
            OmDet-Turbo see all phrases of a question, so the number is part of their figures.
        min_score, max_detections: answers kept, of each phrase.
        masks: draws masks of the boxes; None: boxes alone.

    Raises ValueError for a model of another kind.
    """

    def __init__(
        self,
        name: str | os.PathLike[str],
        device: Any = "cpu",
        dtype: Any = "auto",
        phrases_at_once: int = 1,
        min_score: float = 0.01,
        max_detections: int = 100,
        masks: MasksOfBoxes | None = None,
    ) -> None:
        path = local_directory(name, patterns=_FILES)
        self.kind = str(transformers.PreTrainedConfig.get_config_dict(path)[0].get("model_type"))
        if self.kind not in DETECTORS:
            raise ValueError(f"{name} is a {self.kind!r} model; expected one of {', '.join(DETECTORS)}.")
        model = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(path, dtype=dtype)
        self.model = model.eval().to(device)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        self.image_processor = transformers.AutoImageProcessor.from_pretrained(path, backend="pil")
        self.phrases_at_once = phrases_at_once
        self.min_score, self.max_detections = min_score, max_detections
        self.masks = masks

    def predict(
        self, examples: Iterable[ConceptExample], phrases: Callable[[ConceptExample], Sequence[str]]
    ) -> Iterator[ConceptPrediction]:
        """Boxes and scores for the phrases of each picture, in order."""
        for example in examples:
            picture = load_image(example.image, "picture")
            size = (int(picture.shape[1]), int(picture.shape[2]))
            wanted = list(phrases(example))
            draw = self.masks.on(picture) if self.masks is not None and wanted else None
            for phrase, (scores, boxes) in zip(wanted, self.boxes(picture, wanted), strict=True):
                corners = boxes.cpu().double().numpy()
                masks = None if draw is None else draw(corners)
                yield ConceptPrediction(
                    example.image_id, phrase, size, scores.cpu().double().numpy(), corners, masks=masks
                )

    def boxes(self, picture: Tensor, phrases: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each phrase scores (n,), descending, and boxes (n, 4) xyxy in pixels of a picture (3, height, width)."""
        size = (int(picture.shape[1]), int(picture.shape[2]))
        pixels = dict(self.image_processor(images=picture.permute(1, 2, 0).numpy(), return_tensors="pt"))
        for start in range(0, len(phrases), self.phrases_at_once):
            for scores, boxes in self._ask(pixels, phrases[start : start + self.phrases_at_once], size):
                best = torch.argsort(scores, descending=True, stable=True)[: self.max_detections]
                best = best[scores[best] > self.min_score]
                yield scores[best], boxes[best]

    @torch.inference_mode()
    def _ask(
        self, pixels: dict[str, Tensor], phrases: Sequence[str], size: tuple[int, int]
    ) -> list[tuple[Tensor, Tensor]]:
        """Scores (n,) and boxes (n, 4) xyxy in pixels of each phrase."""
        ask = {"owlvit": self._ask_owl, "owlv2": self._ask_owl, "omdet-turbo": self._ask_omdet}
        scores, boxes = ask.get(self.kind, self._ask_grounding_dino)(self._on_device(pixels), phrases)
        height, width = size
        if self.kind == "owlv2":  # its pictures are padded to squares
            height = width = max(size)
        corners = box_cxcywh_to_xyxy(boxes.float()) * torch.tensor([width, height, width, height], device=boxes.device)
        found = [(row.float(), corners) for row in scores]
        return [self._suppressed(*one, size) for one in found] if self.kind == "omdet-turbo" else found

    def _ask_owl(self, pixels: dict[str, Tensor], phrases: Sequence[str]) -> tuple[Tensor, Tensor]:
        text = self._tokens(phrases, _OWL_TOKENS)
        outputs = self.model(pixel_values=pixels["pixel_values"], **text)
        return outputs.logits[0].T.sigmoid(), outputs.pred_boxes[0]

    def _ask_grounding_dino(self, pixels: dict[str, Tensor], phrases: Sequence[str]) -> tuple[Tensor, Tensor]:
        """A box belongs to the phrase with the token that it fits best."""
        labels = [" ".join(phrase.lower().replace(".", " ").split()) for phrase in phrases]  # a full stop parts phrases
        text = self.tokenizer(". ".join(labels) + ".", return_tensors="pt", return_token_type_ids=True)
        number, most = text["input_ids"].shape[1], self.model.config.max_text_len
        if number > most:
            raise ValueError(
                f"{len(labels)} phrases are {number} tokens, more than the model reads at once ({most}); lower "
                "phrases_at_once."
            )
        outputs = self.model(**pixels, **self._on_device(dict(text)))
        probabilities = outputs.logits[0].sigmoid()  # (queries, tokens)
        if len(labels) == 1:
            return probabilities.max(-1).values[None], outputs.pred_boxes[0]
        owner = self._owners(text["input_ids"][0]).to(probabilities.device)
        of_phrase = torch.stack([probabilities[:, : len(owner)][:, owner == i].amax(-1) for i in range(len(labels))])
        mine = of_phrase.argmax(0) == torch.arange(len(labels), device=owner.device)[:, None]
        return torch.where(mine, of_phrase, 0.0), outputs.pred_boxes[0]

    def _owners(self, input_ids: Tensor) -> Tensor:
        """For each token the number of its phrase; -1 for full stops and special tokens."""
        stop = self.tokenizer.convert_tokens_to_ids(".")
        owner = torch.cumsum(input_ids == stop, 0)
        special = torch.tensor([int(token) in self.tokenizer.all_special_ids for token in input_ids])
        return torch.where((input_ids == stop) | special, -1, owner)

    def _ask_omdet(self, pixels: dict[str, Tensor], phrases: Sequence[str]) -> tuple[Tensor, Tensor]:
        classes, tasks = (
            self._tokens(phrases, _OMDET_TOKENS),
            self._tokens([f"Detect {', '.join(phrases)}."], _OMDET_TOKENS),
        )
        outputs = self.model(
            pixel_values=pixels["pixel_values"],
            **{f"classes_{name}": value for name, value in classes.items()},
            **{f"tasks_{name}": value for name, value in tasks.items()},
            classes_structure=torch.tensor([len(phrases)], device=self.model.device),
        )
        return outputs.decoder_class_logits[0].T.sigmoid()[: len(phrases)], outputs.decoder_coord_logits[0]

    def _tokens(self, texts: Sequence[str], length: int) -> dict[str, Tensor]:
        found = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return self._on_device({name: found[name] for name in ("input_ids", "attention_mask")})

    def _on_device(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Tensors on the model's device, those of floats in its dtype."""
        moved = {name: torch.as_tensor(np.asarray(value)) for name, value in inputs.items()}
        return {
            name: value.to(self.model.device, self.model.dtype if value.is_floating_point() else value.dtype)
            for name, value in moved.items()
        }

    def _suppressed(self, scores: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        kept = torch.nonzero(scores > self.min_score).flatten()
        scores, boxes = scores[kept], boxes[kept]
        keep = box_nms(boxes, scores, _OMDET_NMS)
        limits = torch.tensor([size[1], size[0], size[1], size[0]], device=boxes.device)
        return scores[keep], torch.minimum(boxes[keep].clamp(min=0), limits)
