"""`Sam3VideoTracker`: one object per click prompt on a picture; with memory, the same object through a video."""

from typing import Any

import torch
from torch import Tensor, nn

from ..configuration import Sam3TrackerConfig
from .layers import Conv2d, Linear
from .mask_decoder import MaskDecoder, MaskDecoderOutput, NamedMLP
from .memory import MemoryAttention, MemoryEncoder
from .outputs import Sam3ObjectSegmentationOutput, Sam3VisionEncoderOutput
from .pretrained import Sam3PreTrainedModel
from .prompt_encoder import PADDING_LABEL, PromptEncoder, RandomPosition
from .vision_tower import VisionTower

__all__ = ["Sam3VideoTracker"]


class Sam3VideoTracker(Sam3PreTrainedModel):
    """The click half of SAM 3 (the design of SAM 2): points, a box or a mask → masks of that one object.

    The parts have the names that checkpoints give them. The memory parts (`memory_encoder`, `memory_attention`,
    pointers) are loaded and saved with the rest; single pictures do not use them.

    Args:
        config: configuration; `vision_config` describes the vision tower.
        with_vision: False leaves the vision tower out, for a tracker that lives inside `Sam3Model`.
    """

    config_class = Sam3TrackerConfig
    config: Sam3TrackerConfig

    def __init__(self, config: Sam3TrackerConfig, with_vision: bool = True) -> None:
        super().__init__(config)
        size, memory = config.vision_config.fpn_hidden_size, config.memory_encoder_output_channels
        prompts = config.prompt_encoder_config
        self.vision_encoder = VisionTower(config.vision_config) if with_vision else None
        self.shared_image_embedding = RandomPosition(prompts.hidden_size // 2, prompts.scale)
        self.prompt_encoder = PromptEncoder(prompts)
        self.mask_decoder = MaskDecoder(config.mask_decoder_config)
        self.no_memory_embedding = nn.Parameter(torch.zeros(1, 1, size))
        self.memory_attention = MemoryAttention(config)
        self.memory_encoder = MemoryEncoder(config)
        self.no_memory_positional_encoding = nn.Parameter(torch.zeros(1, 1, size))
        self.memory_temporal_positional_encoding = nn.Parameter(torch.zeros(config.num_maskmem, 1, 1, memory))
        self.no_object_pointer = nn.Parameter(torch.zeros(1, size))
        self.mask_downsample = Conv2d(1, 1, 4, 4)
        self.object_pointer_proj = NamedMLP(size, size, size)
        if config.enable_temporal_pos_encoding_for_object_pointers:
            self.temporal_positional_encoding_projection_layer = Linear(size, memory)
        if config.enable_occlusion_spatial_embedding:
            self.occlusion_spatial_embedding_parameter = nn.Parameter(torch.zeros(1, memory))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module | None:
        """The patch embedding, or None without a vision tower."""
        return None if self.vision_encoder is None else self.vision_encoder.backbone.embeddings.patch_embeddings

    def get_vision_features(self, pixel_values: Tensor, **_: Any) -> Sam3VisionEncoderOutput:
        """Features of pictures from the tracker's own vision tower and neck.

        Args:
            pixel_values: (num_images, 3, image_size, image_size) normalised pixels from `Sam3Processor`.
        """
        if self.vision_encoder is None:
            raise ValueError("this tracker has no vision tower of its own; call the Sam3Model that it belongs to")
        return self.vision_encoder(pixel_values)

    def get_image_embeddings(self, pixel_values: Tensor, **_: Any) -> tuple[Tensor, ...]:
        """Maps of 4, 2 and 1 times the grid, ready for `forward(image_embeddings=...)`.

        Args:
            pixel_values: (num_images, 3, image_size, image_size) normalised pixels from `Sam3Processor`.
        """
        maps = self.get_vision_features(pixel_values).fpn_hidden_states
        assert maps is not None
        return self.prepare_image_embeddings(maps)

    def prepare_image_embeddings(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The neck's three maps, the finer ones projected for the mask decoder and "no memory" added to the last."""
        fine, middle, coarse = maps
        no_memory = self.no_memory_embedding.view(1, -1, 1, 1)
        return self.mask_decoder.conv_s0(fine), self.mask_decoder.conv_s1(middle), coarse + no_memory

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_points: Tensor | None = None,
        input_labels: Tensor | None = None,
        input_boxes: Tensor | None = None,
        input_masks: Tensor | None = None,
        image_embeddings: tuple[Tensor, ...] | None = None,
        multimask_output: bool = True,
        original_sizes: Tensor | None = None,
    ) -> Sam3ObjectSegmentationOutput:
        """Masks of each object that was pointed at.

        Args:
            pixel_values: (num_images, 3, image_size, image_size); or `image_embeddings` of an earlier answer.
            input_points: (num_images, num_objects, count, 2) xy in model pixels.
            input_labels: (num_images, num_objects, count) 1 on the object, 0 off it, -10 padding; None: all 1.
            input_boxes: (num_images, num_objects, 4) xyxy in model pixels, one per object.
            input_masks: (num_images, num_objects, h, w) or (num_images, h, w) mask logits of an earlier answer.
            multimask_output: three masks per object, for ambiguous prompts, rather than one.
            original_sizes: not used; accepted so that `model(**processor_output)` works.

        Raises:
            ValueError: when pictures are missing or given twice, or when prompts do not fit together.
        """
        if (pixel_values is None) == (image_embeddings is None):
            which = "both" if pixel_values is not None else "neither"
            raise ValueError(f"give exactly one of pixel_values and image_embeddings, got {which}")
        if image_embeddings is None:
            assert pixel_values is not None
            image_embeddings = self.get_image_embeddings(pixel_values)
        num_images = image_embeddings[-1].shape[0]
        points, labels, boxes, masks, num_objects = _check_prompts(
            num_images, input_points, input_labels, input_boxes, input_masks
        )
        # All objects of all pictures are one batch.
        tokens, valid, dense = self.prompt_encoder(
            *(None if t is None else t.flatten(0, 1) for t in (points, labels, boxes, masks)), num_images * num_objects
        )
        decoded = self.decode_objects(image_embeddings, num_objects, tokens, valid, dense, multimask_output)
        return Sam3ObjectSegmentationOutput(
            iou_scores=decoded.iou_scores.unflatten(0, (num_images, num_objects)),
            pred_masks=decoded.masks.unflatten(0, (num_images, num_objects)),
            object_score_logits=decoded.object_score_logits.unflatten(0, (num_images, num_objects)),
            object_pointers=self.object_pointers(decoded).unflatten(0, (num_images, num_objects)),
            image_embeddings=image_embeddings,
        )

    def decode_objects(
        self,
        image_embeddings: tuple[Tensor, ...],
        num_objects: int,
        tokens: Tensor,
        valid: Tensor,
        dense: Tensor,
        multimask_output: bool,
    ) -> MaskDecoderOutput:
        """The mask decoder's answer for `num_objects` objects on each picture, as one batch."""
        maps = tuple(m.repeat_interleave(num_objects, 0) for m in image_embeddings)
        position = self.shared_image_embedding.grid(*maps[-1].shape[-2:])
        return self.mask_decoder(maps[-1], position, maps[:2], tokens, valid, dense, multimask_output)

    def object_pointers(self, decoded: MaskDecoderOutput) -> Tensor:
        """The pointer (objects, channels) of each object's best mask; a learned one where no object is seen."""
        best = decoded.iou_scores.argmax(-1)
        rows = torch.arange(len(best), device=best.device)
        pointer = self.object_pointer_proj(decoded.mask_tokens[rows, best])
        return torch.where(decoded.object_score_logits > 0, pointer, self.no_object_pointer)


def _check_prompts(
    num_images: int, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None, masks: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, int]:
    """The prompts with defaults filled in, and the number of objects per picture; raises `ValueError` on misfits."""
    if points is None and labels is not None:
        raise ValueError("input_labels were given without input_points")
    if masks is not None and masks.dim() == 3:
        masks = masks[:, None]
    if points is not None and labels is None:
        labels = torch.ones(points.shape[:-1], dtype=torch.long, device=points.device)
    expected = {
        "input_points": (points, 4),
        "input_labels": (labels, 3),
        "input_boxes": (boxes, 3),
        "input_masks": (masks, 4),
    }
    counts = {}
    for name, (tensor, dims) in expected.items():
        if tensor is None:
            continue
        if tensor.dim() != dims or tensor.shape[0] != num_images:
            raise ValueError(
                f"{name} must have {dims} dimensions (num_images={num_images}, num_objects, ...), got "
                f"{tuple(tensor.shape)}"
            )
        counts[name] = tensor.shape[1]
    if len(set(counts.values())) > 1:
        raise ValueError(f"prompts must agree on the number of objects per picture, got {counts}")
    if points is not None and labels is not None:
        if labels.shape != points.shape[:3]:
            raise ValueError(f"input_labels must have shape {tuple(points.shape[:3])}, got {tuple(labels.shape)}")
        if not torch.isin(labels, torch.tensor([-1, 0, 1, PADDING_LABEL], device=labels.device)).all():
            raise ValueError(
                f"input_labels may be 1, 0, -1 or {PADDING_LABEL} (padding), got "
                f"{sorted(set(labels.flatten().tolist()))}"
            )
    return points, labels, boxes, masks, next(iter(counts.values()), 1)
