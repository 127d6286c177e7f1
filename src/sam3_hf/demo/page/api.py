"""The two functions of the page's API, for programs: `/segment` and `/track`. They keep nothing between calls."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr

from ..exports import annotated, coco
from ..image_session import ImageSession
from ..messages import explain_error, parse_phrases
from ..models import settings_for
from ..pictures import open_picture
from ..video_job import VideoJob
from .parts import EXPECTED, MODEL_QUEUE, Behind
from .stage import picture_file
from .video_tab import MAX_FRAMES

__all__ = ["Api"]


class Api:
    """Invisible components that give the API its names and types.

    `/segment(picture, phrases, threshold, boxes)` gives a COCO dataset and the annotated picture; `boxes` is a list of
    [x0, y0, x1, y1, label] in pixels, label 1 (like this, may be left out) or 0 (not this).
    `/track(video, phrases, threshold, new_threshold, max_frames)` gives the annotated video and YouTube-VIS JSON.
    """

    def __init__(self, behind: Behind) -> None:
        self.behind = behind
        settings = settings_for(behind.shelf.default)
        with gr.Row(visible=False):
            picture = picture_file(label="picture")
            video = gr.File(label="video", type="filepath")
            phrases = gr.Textbox(label="phrases")
            threshold = gr.Number(settings.threshold, label="threshold")
            new_threshold = gr.Number(settings.new_threshold, label="new_threshold")
            boxes = gr.JSON([], label="boxes")
            max_frames = gr.Number(MAX_FRAMES, label="max_frames", precision=0)
            found, drawn = gr.JSON(label="COCO"), gr.Image(label="annotated", format="png")
            played, tracks = gr.File(label="annotated video"), gr.File(label="tracks")
            gr.Button("segment").click(
                self.segment,
                [picture, phrases, threshold, boxes],
                [found, drawn],
                api_name="segment",
                api_description="Every object of each phrase (several with commas) in a picture, as COCO, and drawn.",
                concurrency_id=MODEL_QUEUE,
                concurrency_limit=1,
            )
            gr.Button("track").click(
                self.track,
                [video, phrases, threshold, new_threshold, max_frames],
                [played, tracks],
                api_name="track",
                api_description="Every object of each phrase followed through a video, as a video and YouTube-VIS.",
                concurrency_id="video",
                concurrency_limit=1,
            )

    def segment(self, picture: str, phrases: str, threshold: float, boxes: Any) -> tuple[dict[str, Any], Any]:
        """The COCO dataset and the annotated picture."""
        try:
            if picture is None:
                raise ValueError("There is no picture: give a file or an address as the first argument.")
            image, _ = open_picture(picture)
            session = ImageSession(self.behind.shelf.open(), image)
            names = parse_phrases(phrases)
            for box in boxes or []:
                session.add_box(box[:4], len(box) < 5 or bool(box[4]))
            session.find(names)
            objects = session.objects(threshold)
            return coco(objects, session.size, Path(picture).name), annotated(image, objects)
        except EXPECTED as error:
            raise _told(error) from error

    def track(
        self, video: str, phrases: str, threshold: float, new_threshold: float, max_frames: int
    ) -> tuple[str, str]:
        """Paths of the annotated video and of the tracks."""
        folder = Path(tempfile.mkdtemp(prefix="sam3-hf-demo-"))
        try:
            if video is None:
                raise ValueError("There is no video: give a file as the first argument.")
            job = VideoJob(self.behind.shelf.open(), video, folder)
            job.set_phrases(parse_phrases(phrases))
            for _ in job.run(threshold, new_threshold, min(int(max_frames), MAX_FRAMES)):
                pass
            result = job.result()
            assert result is not None  # a video without frames is refused when it is opened
            job.close()
            return str(result.video), str(result.tracks)
        except EXPECTED as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise _told(error) from error


def _told(error: Exception) -> Exception:
    text = explain_error(error)
    return error if text is None else gr.Error(text, print_exception=False)
