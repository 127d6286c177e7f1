"""The methods by which a model follows a session's video; what they do is in `sam3_hf.video`."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from .outputs import Sam3ClipOutput

__all__ = ["FollowsVideo"]


class FollowsVideo:
    """Gives `Sam3Model` and `Sam3VideoTracker` transformers' methods for videos; loaded when first used."""

    def propagate_in_video_iterator(
        self,
        inference_session: Any,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        show_progress_bar: bool = False,
        immediate: bool = False,
    ) -> Iterator[Any]:
        """The objects of each frame of a session's video, one `Sam3VideoOutput` after the other.

        Results come `hot_start_delay` frames late, so that objects which prove false are never shown; `immediate` gives
        every frame at once, with those objects in it until they are removed. See `sam3_hf.video.propagate`.
        """
        from ..video import propagate

        model: Any = self
        return propagate(
            model, inference_session, start_frame_idx, max_frame_num_to_track, reverse, show_progress_bar, immediate
        )

    def _frame_of_video(
        self, inference_session: Any, frame_idx: int | None, frame: Tensor | None, reverse: bool
    ) -> Any:
        """What `model(inference_session=...)` gives: a stream's next frame, or what was pointed out on a frame."""
        from ..video import segment_frame, track_frame

        model: Any = self
        if frame is None:
            if frame_idx is None:
                raise ValueError(
                    "give frame_idx (of the session's video) or frame (the pixel values of a stream's next)"
                )
            return segment_frame(model, inference_session, frame_idx)
        if frame_idx is None:
            last = inference_session.last_frame
            frame_idx = 0 if last is None else last - 1 if reverse else last + 1
        return track_frame(model, inference_session, frame_idx, frame, reverse)

    def _loss_of_clips(self, pixel_values: Tensor | None, clip_masks: Any, clip_prompts: Any) -> Sam3ClipOutput:
        """What `model(pixel_values=..., clip_masks=...)` gives: the loss of following the objects of clips."""
        from ..video.clip_loss import clips_loss

        if pixel_values is None:
            raise ValueError("clip_masks without pixel_values (num_clips, num_frames, 3, S, S): there is no clip")
        model: Any = self
        return clips_loss(model, pixel_values, clip_masks, clip_prompts)
