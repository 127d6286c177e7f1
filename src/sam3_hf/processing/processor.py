"""`Sam3Processor`: pictures, phrases, exemplars and clicks in, the model's tensors out, and the way back.

One class serves concept prompts (every object of a phrase) and clicks (one object each).  It needs no torchvision.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, CLIPTokenizer, PreTrainedTokenizerBase
from transformers.utils import PushToHubMixin

from ..hub import local_directory
from . import postprocess
from .clicks import click_inputs
from .images import ImageInput, load_images, normalize_pixels, resize_image
from .prompts import nesting_depth, to_lists
from .rows import concept_rows
from .tokenization import clip_tokenizer, tokenize_phrases

__all__ = ["Sam3Processor", "Sam3TrackerProcessor"]

_CONFIG_FILES = ("processor_config.json", "preprocessor_config.json")  # the hub's, and what older releases wrote
_TOKENIZER_FILES = ("tokenizer*.json", "special_tokens_map.json", "vocab.json", "merges.txt")
_HALF = (0.5, 0.5, 0.5)


class Sam3Processor(PushToHubMixin):
    """Prepares pictures and prompts for the SAM 3 models and turns their outputs into masks.

    `size` {"height", "width"} (or one number) is the square that the model sees, `image_mean` and `image_std` belong to
    pixel values in 0..1, `tokenizer` is a CLIP tokenizer of transformers (default: the packaged vocabulary).
    """

    default_prompt_kind = "exemplars"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        size: dict[str, int] | int = 1008,
        image_mean: Sequence[float] = _HALF,
        image_std: Sequence[float] = _HALF,
    ) -> None:
        self.tokenizer = clip_tokenizer() if tokenizer is None else tokenizer
        self.size = _square(size)
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)

    @property
    def image_size(self) -> int:
        """Side of the square that the model sees, in pixels."""
        return self.size["height"]

    @property
    def model_input_names(self) -> list[str]:
        """Names of all the tensors that a call may return."""
        exemplars = ["input_boxes", "input_boxes_labels", "input_points", "input_points_labels", "input_labels"]
        return ["pixel_values", "original_sizes", "input_ids", "attention_mask", "image_ids", *exemplars]

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput] | None = None,
        text: str | Sequence[str | None] | Sequence[Sequence[str | None]] | None = None,
        input_boxes: Any = None,
        input_boxes_labels: Any = None,
        input_points: Any = None,
        input_points_labels: Any = None,
        input_labels: Any = None,
        original_sizes: Sequence[Sequence[int]] | Tensor | None = None,
        prompt_kind: str | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """The model's inputs, by name, with a method `.to(device)`.

        Concept prompts make one row for each picture-phrase pair:
            `pixel_values` (num_images, 3, S, S) float32; `original_sizes` (num_rows, 2) int64 (height, width);
            `input_ids` and `attention_mask` (num_rows, 32); `input_boxes` (num_rows, max_boxes, 4) cxcywh in 0..1 and
            `input_points` (num_rows, max_points, 2) in 0..1 with `..._labels` in {1, 0, -10}; `image_ids` (num_rows,)
            where several rows share a picture.
        Clicks ("objects") make one mask for each object, in transformers' `Sam3TrackerProcessor` conventions:
            `input_points` (num_images, num_objects, num_points, 2), `input_labels` and `input_boxes` (num_images,
            num_objects, 4) in pixels of the model; `original_sizes` (num_images, 2).

        Given are boxes [row][box][x0, y0, x1, y1], points [row][point][x, y] in pixels of the upright picture, labels
        [row][label]. `text` is one phrase for all pictures, one for each, several for a single picture, or nested
        [[...], [...]] by picture; None where a row has only boxes or points.  `prompt_kind` "exemplars" or "objects"
        overrides what the arguments suggest (`input_labels` or points [picture][object][point][x, y] are clicks; boxes
        alone follow `default_prompt_kind`). `original_sizes` stands in for `images` where the picture was encoded
        before.

        Raises ValueError or TypeError naming the picture, row, box or point that cannot be used; warns of boxes that
        were clipped and of phrases that were cut.
        """
        if return_tensors not in ("pt", None):
            raise ValueError(f"return_tensors is {return_tensors!r}; only 'pt' (torch) is supported.")
        prompts = {
            "input_boxes": input_boxes,
            "input_boxes_labels": input_boxes_labels,
            "input_points": input_points,
            "input_points_labels": input_points_labels,
            "input_labels": input_labels,
        }
        prompts = {name: value for name, value in prompts.items() if value is not None}
        if images is None and text is None and not prompts:
            raise ValueError("no picture and no prompt; pass images, and text, input_boxes or input_points.")
        data: dict[str, Tensor] = {}
        sizes = _given_sizes(original_sizes)
        if images is not None:
            pictures = load_images(images)
            data["pixel_values"] = self._pixel_values(pictures)
            sizes = [(picture.shape[1], picture.shape[2]) for picture in pictures]
        if self._are_objects(text, prompts, prompt_kind):
            data |= self._object_inputs(text, sizes, prompts)
        elif text is not None or prompts:
            concept_data, image_ids = self._concept_inputs(text, sizes, prompts)
            data |= concept_data
            if sizes is not None and image_ids is not None:
                sizes = [sizes[index] for index in image_ids]
        if sizes is not None:
            data["original_sizes"] = torch.tensor(sizes, dtype=torch.int64)
        return BatchFeature(data)

    def _pixel_values(self, pictures: list[Tensor]) -> Tensor:
        resized = (resize_image(picture, self.size) for picture in pictures)
        return torch.stack([normalize_pixels(picture, self.image_mean, self.image_std) for picture in resized])

    def _are_objects(self, text: Any, prompts: dict[str, Any], prompt_kind: str | None) -> bool:
        """Whether points and boxes mark single objects rather than show examples of a concept."""
        if prompt_kind not in (None, "exemplars", "objects"):
            raise ValueError(f"prompt_kind is {prompt_kind!r}; expected 'exemplars', 'objects' or None.")
        if not prompts:
            return False
        if prompt_kind is not None:
            return prompt_kind == "objects"
        if "input_boxes_labels" in prompts or "input_points_labels" in prompts:
            return False
        if "input_labels" in prompts or self.default_prompt_kind == "objects":
            return True
        by_picture = isinstance(text, list | tuple) and any(isinstance(entry, list | tuple) for entry in text)
        points = to_lists(prompts.get("input_points"), "input_points")
        return not by_picture and nesting_depth(points) == 4

    def _object_inputs(
        self, text: Any, sizes: list[tuple[int, int]] | None, prompts: dict[str, Any]
    ) -> dict[str, Tensor]:
        if text is not None:
            raise ValueError(
                f"text {text!r} with clicks: a click marks one object and takes no phrase. "
                "For examples of a phrase give points as [row][point][x, y] with input_points_labels, "
                "or pass prompt_kind='exemplars'."
            )
        unknown = [name for name in prompts if name not in ("input_points", "input_labels", "input_boxes")]
        if unknown:
            raise ValueError(
                f"{', '.join(unknown)} with clicks; their labels are input_labels [picture][object][point]."
            )
        if sizes is None:
            raise ValueError("clicks need the picture's size; pass images, or original_sizes [(height, width), ...].")
        return click_inputs(sizes, self.image_size, **prompts)

    def _concept_inputs(
        self, text: Any, sizes: list[tuple[int, int]] | None, prompts: dict[str, Any]
    ) -> tuple[dict[str, Tensor], list[int] | None]:
        if "input_labels" in prompts:
            raise ValueError(
                "input_labels belong to clicks; exemplars take input_points_labels and input_boxes_labels."
            )
        rows = concept_rows(text, sizes, **prompts)
        data = tokenize_phrases(rows.phrases, self.tokenizer)
        data |= rows.exemplars
        num_images = len(sizes) if sizes is not None else max(rows.image_ids or [0]) + 1
        if rows.image_ids is not None and rows.image_ids != list(range(num_images)):
            data["image_ids"] = torch.tensor(rows.image_ids, dtype=torch.int64)
        return data, rows.image_ids

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> "Sam3Processor":
        """The processor of a local directory or hub repository, ours or transformers'.

        Keyword arguments of the constructor override what is read there (`size={"height": 560, "width": 560}`); all
        others, such as `revision`, `token` or `cache_dir`, go to the hub.  Without tokenizer files the packaged CLIP
        vocabulary is used. Raises OSError, saying what to do, for a missing or gated repository and for a directory
        without a processor configuration.
        """
        own = {key: kwargs.pop(key) for key in ("tokenizer", "size", "image_mean", "image_std") if key in kwargs}
        folder = local_directory(pretrained_model_name_or_path, patterns=[*_CONFIG_FILES, *_TOKENIZER_FILES], **kwargs)
        arguments = _read_config(folder) | own
        if arguments.get("tokenizer") is None:
            arguments["tokenizer"] = _read_tokenizer(folder)
        return cls(**arguments)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """Paths of the files written to `save_directory`, which this class and transformers' SAM 3 processors open.

        With `push_to_hub` they are uploaded too, to `repo_id` (default: the directory's name); the other keyword
        arguments go there.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _CONFIG_FILES[0]
        path.write_text(json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        written = [str(path), *self.tokenizer.save_pretrained(folder)]
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)
        return written

    def to_dict(self) -> dict[str, Any]:
        """The content of `processor_config.json`, in the layout of the hub's repository."""
        common: dict[str, Any] = {
            "do_convert_rgb": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": self.image_mean,
            "image_std": self.image_std,
            "resample": 2,  # PIL's number for bilinear
            "rescale_factor": 1 / 255,
            "size": self.size,
        }
        image_processor = {**common, "image_processor_type": "Sam3ImageProcessor"}
        video_processor = {**common, "video_processor_type": "Sam2VideoVideoProcessor", "return_metadata": False}
        return {
            "image_processor": image_processor,
            "processor_class": "Sam3VideoProcessor",
            "target_size": self.image_size,
            "video_processor": video_processor,
        }

    def post_process_instance_segmentation(self, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """See `processing.postprocess.post_process_instance_segmentation`."""
        return postprocess.post_process_instance_segmentation(*args, **kwargs)

    def post_process_semantic_segmentation(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """See `processing.postprocess.post_process_semantic_segmentation`."""
        return postprocess.post_process_semantic_segmentation(*args, **kwargs)

    def post_process_object_detection(self, *args: Any, **kwargs: Any) -> list[dict[str, Tensor]]:
        """See `processing.postprocess.post_process_object_detection`."""
        return postprocess.post_process_object_detection(*args, **kwargs)

    def post_process_masks(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """See `processing.postprocess.post_process_masks`."""
        return postprocess.post_process_masks(*args, **kwargs)


class Sam3TrackerProcessor(Sam3Processor):
    """A `Sam3Processor` whose points and boxes mark single objects unless told otherwise, as in transformers."""

    default_prompt_kind = "objects"


def _square(size: dict[str, int] | int) -> dict[str, int]:
    if isinstance(size, int):
        size = {"height": size, "width": size}
    if set(size) != {"height", "width"} or size["height"] != size["width"] or size["height"] < 1:
        raise ValueError(f"size is {size}; expected a square such as {{'height': 1008, 'width': 1008}}, or its side.")
    return {"height": int(size["height"]), "width": int(size["width"])}


def _given_sizes(original_sizes: Any) -> list[tuple[int, int]] | None:
    if original_sizes is None:
        return None
    sizes = to_lists(original_sizes, "original_sizes")
    if nesting_depth(sizes) != 2 or any(len(size) != 2 or min(size) < 1 for size in sizes):
        raise ValueError(f"original_sizes is {sizes}; expected [(height, width), ...] of the pictures.")
    return [(int(height), int(width)) for height, width in sizes]


def _read_config(folder: Path) -> dict[str, Any]:
    """`size`, `image_mean` and `image_std` of the first processor configuration found."""
    for path in (folder / file for file in _CONFIG_FILES):
        if path.is_file():
            config = json.loads(path.read_text(encoding="utf-8"))
            config = config.get("image_processor", config)
            return {key: config[key] for key in ("size", "image_mean", "image_std") if key in config}
    raise OSError(
        f"{str(folder)!r} has no {' or '.join(_CONFIG_FILES)}; "
        "save one there with Sam3Processor().save_pretrained(...), or use Sam3Processor(size=...) directly."
    )


def _read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json")):
        return clip_tokenizer()
    return CLIPTokenizer.from_pretrained(folder)
