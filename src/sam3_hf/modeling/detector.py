"""`Sam3Detector`: every object of a concept in a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..configuration import Sam3DetectorConfig
from ..losses import Match, Normalizer, QueryAnswers, Targets, detection_loss, noisy_queries
from ..ops.boxes import box_cxcywh_to_xyxy
from .decoder import Decoder
from .exemplar_encoder import ExemplarEncoder, Exemplars
from .fusion_encoder import FusionEncoder
from .heads import MaskHead, PromptScoring, suppress_duplicates
from .layers import Linear, key_padding_bias, sine_grid
from .outputs import Sam3ImageSegmentationOutput, Sam3TextEncoderOutput, Sam3VisionEncoderOutput
from .pretrained import Sam3PreTrainedModel
from .text_tower import TextTower
from .vision_tower import VisionTower

__all__ = ["Sam3Detector"]

ROWS_AT_ONCE = 4


@dataclass
class _Answers:
    """What rows answer before masks are made; with DAC, twice as many queries.

    Attributes:
        logits: (num_layers, rows, queries).
        boxes: (num_layers, rows, queries, 4) cxcywh.
        presence: (num_layers, rows, 1).
        queries: (rows, queries, channels) of the last layer.
        pixels: (rows, channels, 4·grid, 4·grid).
    """

    logits: Tensor
    boxes: Tensor
    presence: Tensor
    queries: Tensor
    pixels: Tensor


class Sam3Detector(Sam3PreTrainedModel):
    """The concept half of SAM 3: a phrase, example boxes and points, or all of them → masks of every matching object.

    Picture → `vision_encoder`; phrase → `text_encoder`; exemplars → `geometry_encoder`; prompt tokens (text and
    exemplars) and picture → `detr_encoder` → `detr_decoder` → `dot_product_scoring`, `mask_decoder`. The parts have the
    names that checkpoints give them.
    """

    config_class = Sam3DetectorConfig
    config: Sam3DetectorConfig
    accepts_loss_kwargs = True  # transformers' Trainer: `forward` normalises by `num_items_in_batch`

    def __init__(self, config: Sam3DetectorConfig) -> None:
        super().__init__(config)
        self.vision_encoder = VisionTower(config.vision_config)
        self.text_encoder = TextTower(config.text_config)
        self.text_projection = Linear(config.text_config.hidden_size, config.detr_encoder_config.hidden_size)
        self.geometry_encoder = ExemplarEncoder(config.geometry_encoder_config)
        self.detr_encoder = FusionEncoder(config.detr_encoder_config)
        self.detr_decoder = Decoder(config.detr_decoder_config)
        self.dot_product_scoring = PromptScoring(config)
        self.mask_decoder = MaskHead(config.mask_decoder_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        return self.text_encoder.text_model.embeddings.token_embedding

    def get_vision_features(self, pixel_values: Tensor, **_: Any) -> Sam3VisionEncoderOutput:
        """Features of pictures, to be given to `forward` as `vision_embeds` for any number of prompts.

        Args:
            pixel_values: (num_images, 3, image_size, image_size) normalised pixels from `Sam3Processor`.
        """
        return self.vision_encoder(pixel_values)

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> Sam3TextEncoderOutput:
        """Features of phrases, to be given to `forward` as `text_embeds` for any number of pictures.

        Args:
            input_ids: (num_phrases, length) token ids.
            attention_mask: not needed here (the text tower is causal and padding comes last); give it to `forward`.
        """
        hidden = self.text_encoder(input_ids)
        return Sam3TextEncoderOutput(last_hidden_state=hidden, pooler_output=self.text_projection(hidden))

    def forward(
        self,
        pixel_values: Tensor | None = None,
        vision_embeds: Sam3VisionEncoderOutput | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        text_embeds: Sam3TextEncoderOutput | Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_boxes_labels: Tensor | None = None,
        input_points: Tensor | None = None,
        input_points_labels: Tensor | None = None,
        image_ids: Tensor | None = None,
        original_sizes: Tensor | None = None,
        labels: Sequence[Mapping[str, Any]] | None = None,
        num_items_in_batch: Normalizer | None = None,
    ) -> Sam3ImageSegmentationOutput:
        """Masks, boxes, logits and presence of each row (picture-phrase pair); with labels, the training loss.

        Rows are matched to pictures by `image_ids`; without it, row i is picture i, or all rows ask the one picture, or
        one phrase asks all pictures. The vision tower runs once per picture, whatever the number of rows.

        Args:
            pixel_values: (num_images, 3, image_size, image_size); or `vision_embeds` from `get_vision_features`.
            input_ids: (num_rows, length); or `text_embeds` from `get_text_features` (or its `pooler_output`).
            attention_mask: (num_rows, length) 1 on real tokens; None: all are real.
            input_boxes: (num_rows, count, 4) example boxes, cxcywh in 0..1.
            input_boxes_labels: (num_rows, count) 1 positive, 0 negative, -10 padding; None: all positive.
            input_points: (num_rows, count, 2) example points, xy in 0..1.
            input_points_labels: as for boxes.
            image_ids: (num_rows,) index of each row's picture.
            original_sizes: not used; accepted so that `model(**processor_output)` works.
            labels: per row `{"boxes": (n, 4) cxcywh in 0..1, "masks": (n, h, w) bool}` with n 0 where the phrase is
                absent; either key may be missing. In training mode, masks are then made for matched queries only and
                `pred_masks` is None.
            num_items_in_batch: totals of all micro-batches of an optimizer step, by which the loss is normalised; None:
                the counts of this batch, averaged over processes.

        Raises:
            ValueError: when pictures or phrases are missing or given twice, or when shapes do not fit together.
            TypeError: for labels that are not a list of dicts.
        """
        vision = self._vision(pixel_values, vision_embeds)
        text, text_valid = self._text(input_ids, attention_mask, text_embeds)
        boxes = None if input_boxes is None else Exemplars.from_padded(input_boxes, input_boxes_labels, "input_boxes")
        points = (
            None if input_points is None else Exemplars.from_padded(input_points, input_points_labels, "input_points")
        )
        assert vision.fpn_hidden_states is not None
        coarse = vision.fpn_hidden_states[-1]
        num_images = coarse.shape[0]
        given = {"phrases": text.shape[0], "image_ids": None if image_ids is None else len(image_ids)}
        given |= {name: None if e is None else len(e.valid) for name, e in (("boxes", boxes), ("points", points))}
        num_rows, image_ids = _rows(num_images, given, image_ids)
        image_ids = None if image_ids is None else image_ids.to(text.device)
        text, text_valid = (t.expand(num_rows, *t.shape[1:]) for t in (text, text_valid))
        channels, height, width = coarse.shape[1:]
        position = sine_grid(height, width, channels, coarse.device).flatten(0, 1)
        begun = self.detr_encoder.begin(coarse.flatten(2).transpose(1, 2), position)
        # Without gradients, rows go through in groups: 16 rows at once would hold gigabytes of pixel embeddings.
        step = num_rows if torch.is_grad_enabled() else ROWS_AT_ONCE
        training = self.training and labels is not None
        targets = None if labels is None else Targets.pack(labels, num_rows, text.device)
        dac = training and self.config.losses.dac
        starts = known = None
        if dac and targets is not None and self.config.losses.denoise:
            reference = self.detr_decoder.reference_points.weight.float().sigmoid()
            starts, known = noisy_queries(targets, reference, self.config.losses.denoise)
        outputs: list[Sam3ImageSegmentationOutput] = []
        groups: list[_Answers] = []
        for i in range(0, num_rows, step):
            rows = slice(i, i + step)
            exemplars = (None if boxes is None else boxes[rows], None if points is None else points[rows])
            pictures = rows if image_ids is None else image_ids[rows]
            begins = None if starts is None else starts[rows]
            found = self._detect(
                vision, begun, position, pictures, text[rows], text_valid[rows], exemplars, dac, begins
            )
            outputs.append(self._output(found, with_masks=not training))
            if targets is not None:
                groups.append(
                    found if training else replace(found, pixels=found.pixels[:0])
                )  # pixels are the heavy part
        output = outputs[0] if len(outputs) == 1 else _concatenated(outputs)
        output.vision_embeds = vision
        if labels is not None and targets is not None:
            if num_items_in_batch is None:
                num_items_in_batch = Normalizer.of(labels).over_processes(text.device, mean=True)
            self._add_loss(output, groups, targets, num_items_in_batch, known)
        return output

    def _vision(
        self, pixel_values: Tensor | None, vision_embeds: Sam3VisionEncoderOutput | None
    ) -> Sam3VisionEncoderOutput:
        if (pixel_values is None) == (vision_embeds is None):
            which = "both" if pixel_values is not None else "neither"
            raise ValueError(f"give exactly one of pixel_values and vision_embeds, got {which}")
        return self.get_vision_features(pixel_values) if pixel_values is not None else vision_embeds  # type: ignore[return-value]

    def _text(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        text_embeds: Sam3TextEncoderOutput | Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Prompt tokens of the phrases and which of them are real."""
        if (input_ids is None) == (text_embeds is None):
            which = "both" if input_ids is not None else "neither"
            raise ValueError(
                f"give exactly one of input_ids and text_embeds, got {which}; a prompt of boxes or points alone has "
                "the phrase 'visual', which Sam3Processor adds by itself"
            )
        if text_embeds is None:
            text_embeds = self.get_text_features(input_ids)  # type: ignore[arg-type]
        text = text_embeds if isinstance(text_embeds, Tensor) else text_embeds.pooler_output
        assert text is not None
        if attention_mask is None:
            return text, torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        if attention_mask.shape != text.shape[:2]:
            raise ValueError(
                f"attention_mask must have shape {tuple(text.shape[:2])} like the phrases, got "
                f"{tuple(attention_mask.shape)}"
            )
        return text, attention_mask.bool()

    def _detect(
        self,
        vision: Sam3VisionEncoderOutput,
        begun: Tensor,
        position: Tensor,
        pictures: slice | Tensor,
        text: Tensor,
        text_valid: Tensor,
        exemplars: tuple[Exemplars | None, Exemplars | None],
        dac: bool,
        starts: Tensor | None,
    ) -> _Answers:
        """What rows answer that ask `pictures`."""
        fine, middle, coarse = vision.fpn_hidden_states  # type: ignore[misc]
        shown, shown_valid = self.geometry_encoder(coarse[pictures], position, *exemplars)
        prompt, valid = torch.cat((text, shown), 1), torch.cat((text_valid, shown_valid), 1)
        bias = key_padding_bias(valid, prompt.dtype)
        image = self.detr_encoder(begun[pictures], position, prompt, bias)
        map_size = (coarse.shape[-2], coarse.shape[-1])
        decoded = self.detr_decoder(image, position, map_size, prompt, bias, dac, starts)
        logits = self.dot_product_scoring(decoded.queries, prompt, valid)
        # One picture's finer maps serve all rows as they are.
        finer = [fine, middle] if fine.shape[0] == 1 else [fine[pictures], middle[pictures]]
        pixels = self.mask_decoder.pixels(image, finer, prompt, bias)
        return _Answers(logits, decoded.boxes, decoded.presence_logits, decoded.queries[-1], pixels)

    def _output(self, found: _Answers, with_masks: bool) -> Sam3ImageSegmentationOutput:
        """The last layer's answers, without DAC's copies and, where the configuration says so, without duplicates."""
        own = self.config.detr_decoder_config.num_queries
        masks = self.mask_decoder.instances(found.queries[:, :own], found.pixels) if with_masks else None
        logits = found.logits[-1, :, :own]
        if masks is not None and self.config.duplicate_iou is not None:
            logits = suppress_duplicates(logits, masks, self.config.duplicate_iou)
        return Sam3ImageSegmentationOutput(
            pred_masks=masks,
            pred_boxes=box_cxcywh_to_xyxy(found.boxes[-1, :, :own]),
            pred_logits=logits,
            presence_logits=found.presence[-1],
            semantic_seg=self.mask_decoder.semantic(found.pixels),
        )

    def _add_loss(
        self,
        output: Sam3ImageSegmentationOutput,
        groups: list[_Answers],
        targets: Targets,
        normalizer: Normalizer,
        known: Match | None,
    ) -> None:
        """Sets `loss` and `loss_dict` of `output`."""
        if not isinstance(normalizer, Normalizer):
            raise TypeError(f"num_items_in_batch must be a sam3_hf.losses.Normalizer or None, got {normalizer!r}")
        own = self.config.detr_decoder_config.num_queries
        names = ("logits", "boxes", "presence")
        logits, boxes, presence = (torch.cat([getattr(group, name) for group in groups], 1) for name in names)

        def made(rows: Tensor, queries: Tensor) -> Tensor:
            if output.pred_masks is not None:
                return output.pred_masks[rows, queries]
            return self._matched_masks(groups[0], rows, queries)

        def copied(rows: Tensor, queries: Tensor) -> Tensor:
            return self._matched_masks(groups[0], rows, queries + own)

        answers = QueryAnswers(logits[:, :, :own], boxes[:, :, :own], made)
        copies = QueryAnswers(logits[:, :, own:], boxes[:, :, own:], copied) if logits.shape[2] > own else None
        assert output.semantic_seg is not None
        output.loss, output.loss_dict = detection_loss(
            answers, copies, presence[..., 0], output.semantic_seg, targets, normalizer, self.config.losses, known
        )

    def _matched_masks(self, found: _Answers, rows: Tensor, queries: Tensor) -> Tensor:
        """Mask logits (N, 4·grid, 4·grid) of queries; `rows` ascend, so that each row's stand side by side."""
        num_rows = len(found.queries)
        counts = torch.bincount(rows, minlength=num_rows)
        place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        padded = queries.new_zeros(num_rows, max(1, int(counts.max())))
        padded[rows, place] = queries
        wanted = found.queries.gather(1, padded[..., None].expand(-1, -1, found.queries.shape[-1]))
        return self.mask_decoder.instances(wanted, found.pixels)[rows, place]


def _concatenated(outputs: list[Sam3ImageSegmentationOutput]) -> Sam3ImageSegmentationOutput:
    """Groups of rows one after the other."""
    joined = Sam3ImageSegmentationOutput()
    for field in fields(joined):
        parts = [getattr(output, field.name) for output in outputs]
        if isinstance(parts[0], Tensor):
            setattr(joined, field.name, torch.cat(parts))
    return joined


def _rows(num_images: int, given: dict[str, int | None], image_ids: Tensor | None) -> tuple[int, Tensor | None]:
    """How many rows the prompts ask, and the picture of each row (None: row i asks picture i)."""
    counts = {name: count for name, count in given.items() if count is not None}
    # One phrase may serve all rows; exemplars belong to one row each.
    rows = {count for name, count in counts.items() if not (name == "phrases" and count == 1)}
    if len(rows) > 1 or 0 in counts.values():
        raise ValueError(f"prompts must agree on the number of rows (picture-phrase pairs), got {counts}")
    num_rows = rows.pop() if rows else (num_images if counts["phrases"] == 1 else counts["phrases"])
    if image_ids is not None:
        if image_ids.dim() != 1 or image_ids.min() < 0 or image_ids.max() >= num_images:
            raise ValueError(
                f"image_ids must hold the picture index (0..{num_images - 1}) of each row, got {image_ids.tolist()}"
            )
        return num_rows, image_ids
    if num_rows == num_images:
        return num_rows, None
    if num_images == 1:
        return num_rows, torch.zeros(num_rows, dtype=torch.long)
    raise ValueError(
        f"{num_images} pictures and {num_rows} rows of prompts do not match: give one phrase, one per picture, or "
        "image_ids with the picture of each row (Sam3Processor makes it from text=[[...], [...]])"
    )
