"""`Sam3VideoTracker`: one object per click prompt on a picture; with memory, the same object through a video."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configuration import Sam3TrackerConfig
from .following import FollowsVideo
from .layers import Conv2d, Linear, key_padding_bias, sine_grid
from .mask_decoder import MaskDecoder, MaskDecoderOutput, NamedMLP
from .memory import MemoryAttention, MemoryEncoder, ObjectMemories
from .outputs import Sam3ObjectSegmentationOutput, Sam3VisionEncoderOutput
from .pretrained import Sam3PreTrainedModel
from .prompt_encoder import NOT_A_POINT, PADDING_LABEL, PromptEncoder, RandomPosition
from .vision_tower import VisionTower

__all__ = ["FrameMaps", "ObjectMasks", "Sam3VideoTracker"]

NO_OBJECT = -1024.0  # mask logit where the object is not in the picture
_CLAMP = 32.0  # of mask logits that come back as prompts


@dataclass(frozen=True)
class FrameMaps:
    """One frame as the tracker sees it, before any object is thought of.

    Attributes:
        fine: (1, channels / 8, 4·grid, 4·grid) projected for the mask decoder.
        middle: (1, channels / 4, 2·grid, 2·grid) projected for the mask decoder.
        coarse: (1, channels, grid, grid).
    """

    fine: Tensor
    middle: Tensor
    coarse: Tensor


@dataclass(frozen=True)
class ObjectMasks:
    """Each object on one frame.

    Attributes:
        masks: (objects, 4·grid, 4·grid) float32 logits; `NO_OBJECT` everywhere where the object is not in the picture.
        ious: (objects,) predicted IoU of the mask.
        scores: (objects,) logit: is the object in the picture?
        pointers: (objects, channels).
        decoded: all that the mask decoder says, from which training learns; None for masks that were given.
    """

    masks: Tensor
    ious: Tensor
    scores: Tensor
    pointers: Tensor
    decoded: MaskDecoderOutput | None = None

    @property
    def quality(self) -> Tensor:
        """(objects,) in 0..1: what a memory of this frame is worth ("effective IoU", Ding et al. 2024, SAM2Long)."""
        return torch.where(self.scores > 0, self.scores.sigmoid() * 2 - 1, 0.0) * self.ious


class Sam3VideoTracker(FollowsVideo, Sam3PreTrainedModel):
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
        inference_session: Any = None,
        frame_idx: int | None = None,
        frame: Tensor | None = None,
        reverse: bool = False,
    ) -> Any:
        """A `Sam3ObjectSegmentationOutput`: masks of each object that was pointed at.

        With `inference_session` a `Sam3VideoOutput` of one frame of its video, see `Sam3Model.forward`.

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
        if inference_session is not None:
            return self._frame_of_video(inference_session, frame_idx, frame, reverse)
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

    # ---- frames of a video ----

    def frame_maps(self, maps: tuple[Tensor, ...]) -> FrameMaps:
        """One frame's maps from the neck's three, the finer ones projected for the mask decoder."""
        fine, middle, coarse = maps
        return FrameMaps(self.mask_decoder.conv_s0(fine), self.mask_decoder.conv_s1(middle), coarse)

    def follow(self, frame: FrameMaps, memories: ObjectMemories) -> ObjectMasks:
        """Where the remembered objects are on a frame."""
        num_objects = len(memories.frames)
        nowhere = torch.zeros(num_objects, 1, 2, device=frame.coarse.device)
        label = torch.full((num_objects, 1), NOT_A_POINT, device=frame.coarse.device)
        config = self.config
        several = config.multimask_output_for_tracking and config.multimask_min_pt_num == 0
        tokens, valid, dense = self.prompt_encoder(nowhere, label, None, None, num_objects)
        return self._decode(frame, self.recall(frame.coarse, memories), tokens, valid, dense, several)

    def point_out(
        self,
        frame: FrameMaps,
        points: Tensor,
        labels: Tensor,
        masks: Tensor | None = None,
        memories: ObjectMemories | None = None,
    ) -> ObjectMasks:
        """Objects that were pointed at on a frame.

        Args:
            frame: the frame.
            points: (objects, count, 2) xy in model pixels; a box is its two corners with labels 2 and 3, before others.
            labels: (objects, count) 1 on the object, 0 off it, 2 and 3 corners of a box, -1 no point, -10 padding.
            masks: (objects, 4·grid, 4·grid) logits of what was found there before, which the points correct.
            memories: lets the objects' past help; by default the points alone count.
        """
        config, num_objects = self.config, len(points)
        count = int((labels != PADDING_LABEL).sum(1).max())
        several = config.multimask_output_in_sam and config.multimask_min_pt_num <= count <= config.multimask_max_pt_num
        if masks is not None:
            masks = masks.clamp(-_CLAMP, _CLAMP)
        tokens, valid, dense = self.prompt_encoder(points, labels, None, masks, num_objects)
        image = frame.coarse + self.no_memory_embedding.view(1, -1, 1, 1)
        if memories is not None:
            image = self.recall(frame.coarse, memories)
        return self._decode(frame, image.expand(num_objects, -1, -1, -1), tokens, valid, dense, several)

    def take_masks(self, frame: FrameMaps, masks: Tensor) -> ObjectMasks:
        """Objects whose masks are given: the masks as logits of ±10, and the pointers to go with them.

        Args:
            frame: the frame.
            masks: (objects, height, width) bool or 0..1, of any size.
        """
        side = 16 * frame.coarse.shape[-1]
        wanted = _resized(masks.float(), side)
        num_objects = len(wanted)
        nowhere = torch.zeros(num_objects, 1, 2, device=wanted.device)
        label = torch.full((num_objects, 1), NOT_A_POINT, device=wanted.device)
        drawn = self.mask_downsample(wanted[:, None].to(frame.coarse.dtype))[:, 0]
        tokens, valid, dense = self.prompt_encoder(nowhere, label, None, drawn, num_objects)
        seen = self._decode(frame, frame.coarse.expand(num_objects, -1, -1, -1), tokens, valid, dense, False)
        present = (wanted > 0).flatten(1).any(1)
        pointers = torch.where(present[:, None], seen.pointers, self.no_object_pointer)
        logits = _resized(wanted * 20 - 10, side // 4)
        scores = torch.where(present, 10.0, -10.0)
        return ObjectMasks(logits, torch.ones_like(scores), scores, pointers)

    def _decode(
        self, frame: FrameMaps, image: Tensor, tokens: Tensor, valid: Tensor, dense: Tensor, several: bool
    ) -> ObjectMasks:
        position = self.shared_image_embedding.grid(*image.shape[-2:])
        finer = (frame.fine, frame.middle)
        decoded = self.mask_decoder(image, position, finer, tokens, valid, dense, several)
        rows = torch.arange(len(image), device=image.device)
        best = decoded.iou_scores.argmax(-1)
        masks, scores = decoded.masks[rows, best].float(), decoded.object_score_logits[:, 0].float()
        masks = torch.where((scores > 0)[:, None, None], masks, NO_OBJECT)
        return ObjectMasks(
            masks, decoded.iou_scores[rows, best].float(), scores, self.object_pointers(decoded), decoded
        )

    def remember(self, frame: FrameMaps, masks: Tensor, present: Tensor, certain: Tensor | bool = False) -> Tensor:
        """(objects, memory_channels, grid, grid): what is kept of a frame and its masks.

        Args:
            frame: the frame.
            masks: (objects, height, width) mask logits; resized to 16 times the grid.
            present: (objects,) whether the object is in the picture.
            certain: bool, or (objects,): the mask comes from a prompt, so its pixels count fully or not at all.
        """
        config = self.config
        certain = torch.as_tensor(certain, device=masks.device).reshape(-1, 1, 1)
        soft = torch.where(certain, (masks > 0).float(), masks.float().sigmoid())
        soft = soft * config.sigmoid_scale_for_mem_enc + config.sigmoid_bias_for_mem_enc
        soft = _resized(soft, 16 * frame.coarse.shape[-1])[:, None].to(frame.coarse.dtype)
        memory = self.memory_encoder(frame.coarse, soft)
        if config.enable_occlusion_spatial_embedding:
            hidden = self.occlusion_spatial_embedding_parameter[..., None, None].to(memory.dtype)
            memory = memory + torch.where(present[:, None, None, None], 0.0, hidden)
        return memory

    def recall(self, coarse: Tensor, memories: ObjectMemories) -> Tensor:
        """(objects, channels, grid, grid): a frame's coarse map after each object's memories were read."""
        height, width = coarse.shape[-2:]
        frames, dtype = memories.frames.to(coarse.dtype), coarse.dtype
        channels = frames.shape[2]
        place = sine_grid(height, width, channels, coarse.device).flatten(0, 1)
        time = self.memory_temporal_positional_encoding[:, 0, 0][memories.slots]
        position = (place + time[:, :, None]).flatten(1, 2).to(dtype)
        tokens = frames.flatten(3).transpose(2, 3).flatten(1, 2)
        pointers, ages = self._pointer_tokens(memories, channels)
        bias = None
        if memories.frames_valid is not None or memories.pointers_valid is not None:
            cells, pieces = height * width, pointers.shape[1] // max(memories.pointers.shape[1], 1)
            shown = [
                torch.ones(shape, dtype=torch.bool, device=coarse.device) if valid is None else valid
                for shape, valid in (
                    (memories.frames.shape[:2], memories.frames_valid),
                    (memories.pointers.shape[:2], memories.pointers_valid),
                )
            ]
            repeated = (shown[0].repeat_interleave(cells, 1), shown[1].repeat_interleave(pieces, 1))
            bias = key_padding_bias(torch.cat(repeated, 1), dtype)
        recalled = self.memory_attention(
            coarse.flatten(2).transpose(1, 2),
            sine_grid(height, width, coarse.shape[1], coarse.device).flatten(0, 1),
            torch.cat((tokens, pointers.to(dtype)), 1),
            torch.cat((position, ages.to(dtype)), 1),
            pointers.shape[1],
            bias,
        )
        return recalled.transpose(1, 2).unflatten(2, (height, width))

    def _pointer_tokens(self, memories: ObjectMemories, channels: int) -> tuple[Tensor, Tensor]:
        """Pointers cut into tokens (objects, tokens, memory_channels), and the position of each in time."""
        size = self.no_object_pointer.shape[-1]
        if size % channels:
            raise ValueError(
                f"this tracker cannot follow videos: its object pointers of {size} channels cannot be cut into tokens "
                f"of {channels} (memory_encoder_output_channels must divide them)."
            )
        pieces = size // channels
        if memories.pointers.shape[1] == 0:
            nothing = self.no_object_pointer.new_zeros(len(memories.pointers), 0, channels)
            return nothing, nothing
        tokens = memories.pointers.unflatten(-1, (pieces, channels)).flatten(1, 2)
        if not self.config.enable_temporal_pos_encoding_for_object_pointers:
            return tokens, torch.zeros_like(tokens)
        index = torch.arange(size // 2, dtype=torch.float32, device=memories.ages.device)
        angle = memories.ages.float()[..., None] / 10000 ** (2 * (index // 2) / (size // 2))
        sines = torch.cat((angle.sin(), angle.cos()), -1).to(tokens.dtype)
        return tokens, self.temporal_positional_encoding_projection_layer(sines).repeat_interleave(pieces, 1)

    def object_pointers(self, decoded: MaskDecoderOutput) -> Tensor:
        """The pointer (objects, channels) of each object's best mask; a learned one where no object is seen."""
        best = decoded.iou_scores.argmax(-1)
        rows = torch.arange(len(best), device=best.device)
        pointer = self.object_pointer_proj(decoded.mask_tokens[rows, best])
        return torch.where(decoded.object_score_logits > 0, pointer, self.no_object_pointer)


def _resized(masks: Tensor, side: int) -> Tensor:
    """Masks (objects, side, side), bilinear, antialiased where they shrink."""
    if masks.shape[-2:] == (side, side):
        return masks
    return F.interpolate(masks[:, None], (side, side), mode="bilinear", align_corners=False, antialias=True)[:, 0]


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
