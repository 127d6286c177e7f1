"""`Sam3Model`: detector and tracker on one vision tower."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..configuration import Sam3Config
from ..losses import Normalizer
from .detector import Sam3Detector
from .following import FollowsVideo
from .outputs import (
    Sam3ObjectSegmentationOutput,
    Sam3TextEncoderOutput,
    Sam3VisionEncoderOutput,
)
from .pretrained import Sam3PreTrainedModel
from .tracker import Sam3VideoTracker
from .vision_tower import VisionNeck

__all__ = ["Sam3Model"]


class Sam3Model(FollowsVideo, Sam3PreTrainedModel):
    """The whole of SAM 3: concept prompts (`forward`) and click prompts (`segment_objects`) on one set of features.

    Example:
        >>> vision_embeds = model.get_vision_features(inputs.pixel_values)            # once per picture
        >>> found = model(vision_embeds=vision_embeds, input_ids=inputs.input_ids, attention_mask=inputs.attention_mask)
        >>> refined = model.segment_objects(vision_embeds=vision_embeds, **clicks)    # no second pass
    """

    config_class = Sam3Config
    config: Sam3Config
    accepts_loss_kwargs = True

    def __init__(self, config: Sam3Config) -> None:
        super().__init__(config)
        self.detector_model = Sam3Detector(config.detector_config)
        self.tracker_model = Sam3VideoTracker(config.tracker_config, with_vision=False)
        self.tracker_neck = VisionNeck(config.tracker_config.vision_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        return self.detector_model.get_input_embeddings()

    def get_vision_features(self, pixel_values: Tensor, **_: Any) -> Sam3VisionEncoderOutput:
        """Features of pictures, for any number of concept and click prompts; see `Sam3Detector.get_vision_features`."""
        return self.detector_model.get_vision_features(pixel_values)

    def get_text_features(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> Sam3TextEncoderOutput:
        """Features of phrases, for any number of pictures; see `Sam3Detector.get_text_features`."""
        return self.detector_model.get_text_features(input_ids, attention_mask)

    def get_image_embeddings(
        self, pixel_values: Tensor | None = None, vision_embeds: Sam3VisionEncoderOutput | None = None
    ) -> tuple[Tensor, ...]:
        """Maps for click prompts, made by the tracker's neck from the shared tower's features.

        Args:
            pixel_values: (num_images, 3, image_size, image_size); or
            vision_embeds: features from `get_vision_features`, so that the picture is not encoded again.
        """
        if (pixel_values is None) == (vision_embeds is None):
            which = "both" if pixel_values is not None else "neither"
            raise ValueError(f"give exactly one of pixel_values and vision_embeds, got {which}")
        if pixel_values is not None:
            tower = self.detector_model.vision_encoder
            tower.check_pixels(pixel_values)
            tokens = tower.backbone(pixel_values)
        else:
            assert vision_embeds is not None
            return self.tracker_model.prepare_image_embeddings(self.get_tracker_maps(vision_embeds))
        return self.tracker_model.prepare_image_embeddings(self.tracker_neck(tokens))

    def get_tracker_maps(self, vision_embeds: Sam3VisionEncoderOutput) -> tuple[Tensor, ...]:
        """Maps of 4, 2 and 1 times the grid that the tracker's neck makes of the shared tower's features."""
        assert vision_embeds.last_hidden_state is not None
        side = self.config.detector_config.vision_config.backbone_config.grid_size
        return self.tracker_neck(vision_embeds.last_hidden_state.unflatten(1, (side, side)))

    def segment_objects(
        self,
        pixel_values: Tensor | None = None,
        vision_embeds: Sam3VisionEncoderOutput | None = None,
        image_embeddings: tuple[Tensor, ...] | None = None,
        **prompts: Any,
    ) -> Sam3ObjectSegmentationOutput:
        """Masks of each object that was pointed at; prompts as in `Sam3VideoTracker.forward`.

        Args:
            pixel_values: (num_images, 3, image_size, image_size); or
            vision_embeds: features from `get_vision_features`; or
            image_embeddings: maps from `get_image_embeddings` or from an earlier answer (cheapest).
            prompts: input_points, input_labels, input_boxes, input_masks, multimask_output.
        """
        if image_embeddings is None:
            image_embeddings = self.get_image_embeddings(pixel_values, vision_embeds)
        elif pixel_values is not None or vision_embeds is not None:
            raise ValueError(
                "give image_embeddings without pixel_values and vision_embeds: they describe the same pictures"
            )
        return self.tracker_model(image_embeddings=image_embeddings, **prompts)

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
        input_labels: Tensor | None = None,
        labels: Sequence[Mapping[str, Any]] | None = None,
        num_items_in_batch: Normalizer | None = None,
        inference_session: Any = None,
        frame_idx: int | None = None,
        frame: Tensor | None = None,
        reverse: bool = False,
        clip_masks: Sequence[Tensor] | None = None,
        clip_prompts: Sequence[str] | None = None,
    ) -> Any:
        """A `Sam3ImageSegmentationOutput`: masks, boxes, logits and presence of each row (picture-phrase pair), with
        labels the training loss of the concept half; see `Sam3Detector.forward`.

        With `inference_session` a `Sam3VideoOutput`: of the stream's next `frame` (3, S, S), or of what was pointed out
        on frame `frame_idx` of the session's video. All is given at once; see `propagate_in_video_iterator`.

        With `clip_masks` a `Sam3ClipOutput`: the loss by which the tracker learns, see `sam3_hf.video.clips_loss`.
        """
        if clip_masks is not None:
            return self._loss_of_clips(pixel_values, clip_masks, clip_prompts)
        if inference_session is not None:
            return self._frame_of_video(inference_session, frame_idx, frame, reverse)
        if input_labels is not None:
            raise ValueError(
                "input_labels belong to click prompts (one mask per object): call model.segment_objects(**inputs); "
                "point exemplars of a concept are input_points with input_points_labels"
            )
        return self.detector_model(
            pixel_values=pixel_values,
            vision_embeds=vision_embeds,
            input_ids=input_ids,
            attention_mask=attention_mask,
            text_embeds=text_embeds,
            input_boxes=input_boxes,
            input_boxes_labels=input_boxes_labels,
            input_points=input_points,
            input_points_labels=input_points_labels,
            image_ids=image_ids,
            original_sizes=original_sizes,
            labels=labels,
            num_items_in_batch=num_items_in_batch,
        )
