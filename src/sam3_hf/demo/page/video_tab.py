"""The tab for videos: phrases, boxes and clicks on any frame in; an annotated video, tracks and a timeline out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from ...ops.masks import rle_decode
from ..messages import parse_phrases
from ..models import settings_for
from ..pictures import example_clip
from ..scene import scene_object
from ..timeline import timeline_html
from ..video_job import Progress, VideoJob
from ..visitors import Visitor
from .parts import EVERY_PHRASE, EXPECTED, FORGOTTEN, Behind, Tab, alert, guarded, guarded_steps, message, score_slider
from .stage import drawn_box, pointed_at, save_shown, stage, staged

__all__ = ["VideoTab"]

MAX_FRAMES = 600  # of one run: a page is no place for hours; `sam3-hf video` is

Updates = dict[Any, Any]


class VideoTab(Tab):
    """Components and handlers of the tab."""

    def __init__(self, behind: Behind) -> None:
        super().__init__(behind)
        self.status = gr.HTML(elem_id="s3-video-status")
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=320):
                self._lay_out_video()
            with gr.Column(scale=2, min_width=300):
                self._lay_out_controls()
        self._lay_out_results()
        self.shown = [
            self.status, self.uploader, self.stage, self.frame, self.other, self.example, self.undo, self.run,
            self.phrases, self.box_phrase,
        ]  # fmt: skip
        self.running = [
            self.status, self.run, self.stop, self.progress, self.preview, self.timeline, self.video, self.files,
            self.stage,
        ]  # fmt: skip
        self._wire()

    # ---- layout ----

    def _lay_out_video(self) -> None:
        self.uploader = gr.Video(
            label="Your video: drop or browse (mp4, webm, mov, ...)",
            sources=["upload"],
            height=300,
            elem_id="s3-video",
        )
        self.stage = stage("s3-video-stage", visible=False, tools=("select", "like", "unlike", "object", "cut"))
        self.frame = gr.Slider(0, 1, value=0, step=1, label="Frame", visible=False, elem_id="s3-frame")
        with gr.Row():
            self.undo = gr.Button("Undo", visible=False, size="sm", min_width=90)
            self.other = gr.Button("Another video", visible=False, size="sm", min_width=90)
            self.example = gr.Button("Use our example clip", size="sm", min_width=90, elem_id="s3-video-example")

    def _lay_out_controls(self) -> None:
        settings = settings_for(self.behind.shelf.default)
        self.phrases = gr.Textbox(
            label="What to follow",
            info="A phrase, or several with commas. Boxes and clicks on a frame are optional",
            placeholder="red shape",
            lines=1,
            max_lines=5,
            elem_id="s3-video-phrases",
        )
        self.box_phrase = gr.Dropdown(
            [EVERY_PHRASE], value=EVERY_PHRASE, label="Boxes count for", visible=False, elem_id="s3-video-box-phrase"
        )
        with gr.Row():
            self.run = gr.Button("Follow", variant="primary", elem_id="s3-follow")
            self.stop = gr.Button("Stop", variant="stop", interactive=False, elem_id="s3-stop")
        self.threshold = score_slider(settings.threshold, "Least score of a detection")
        self.new_threshold = score_slider(settings.new_threshold, "Least score that starts an object")
        self.progress = gr.HTML(elem_id="s3-progress")
        self.preview = gr.Image(
            label="Frame by frame",
            interactive=False,
            format="jpeg",
            buttons=[],
            visible=False,
            elem_id="s3-preview",
            alt_text="The frame that was followed last, with its objects",
        )

    def _lay_out_results(self) -> None:
        self.timeline = gr.HTML(elem_id="s3-timeline")
        self.video = gr.Video(
            label="Annotated video",
            interactive=False,
            visible=False,
            height=420,
            buttons=["download"],
            elem_id="s3-annotated",
        )
        self.files = gr.File(label="Your files", visible=False, file_count="multiple", elem_id="s3-video-files")

    def _wire(self) -> None:
        plain: dict[str, Any] = {"outputs": self.shown, "api_visibility": "private"}
        self.uploader.upload(self.on_upload, [self.uploader], **plain)
        self.example.click(self.on_example, None, **plain)
        self.other.click(self.on_other, None, **plain)
        self.undo.click(self.on_undo, [self.frame], **plain)
        self.frame.release(self.on_frame, [self.frame], **plain)
        self.stage.drawn(self.on_drawn, [self.frame, self.box_phrase], **plain)
        self.phrases.change(self.on_phrases, [self.phrases], [self.box_phrase], api_visibility="private", queue=False)
        self.stage.pointed(self.on_pointed, [self.frame], **plain)
        gr.on(
            [self.run.click, self.phrases.submit],
            self.on_run,
            [self.phrases, self.threshold, self.new_threshold, self.frame],
            self.running,
            api_visibility="private",
            concurrency_id="video",
            concurrency_limit=1,
            show_progress="minimal",
            show_progress_on=[self.progress],
        )
        self.stop.click(self.on_stop, None, [self.status], queue=False, api_visibility="private")

    # ---- handlers ----

    @guarded
    def on_upload(self, path: str | None, request: gr.Request) -> Updates:
        return {} if path is None else self._begin(self.behind.visitor(request), Path(path))

    @guarded
    def on_example(self, request: gr.Request) -> Updates:
        visitor = self.behind.visitor(request)
        path = visitor.folder / "example.mp4"
        phrases = example_clip(path)
        return self._begin(visitor, path) | {self.phrases: ", ".join(phrases)}

    def _begin(self, visitor: Visitor, path: Path) -> Updates:
        visitor.take_video(VideoJob(self.behind.engine(visitor), path, visitor.folder / "video"))
        assert visitor.video is not None
        height, width = visitor.video.size
        told = (
            f"Ready: {visitor.video.num_frames} frames of {width} x {height}. Type what to follow, then press Follow."
        )
        return self._show(visitor, 0, told) | {
            self.frame: gr.Slider(0, max(1, visitor.video.num_frames - 1), value=0, visible=True)
        }

    @guarded
    def on_frame(self, frame: float, request: gr.Request) -> Updates:
        visitor = self.behind.visitor(request)
        return self._show(visitor, int(frame), None) if visitor.video else self._forgotten()

    @guarded
    def on_drawn(self, frame: float, phrase: str | None, request: gr.Request, event: gr.EventData) -> Updates:
        visitor = self.behind.visitor(request)
        if visitor.video is None:
            return self._forgotten()
        visitor.video.add_box(int(frame), *drawn_box(event), None if phrase == EVERY_PHRASE else phrase)
        return self._show(visitor, int(frame), "Example box added; press Follow.")

    @guarded
    def on_pointed(self, frame: float, request: gr.Request, event: gr.EventData) -> Updates:
        visitor = self.behind.visitor(request)
        if visitor.video is None:
            return self._forgotten()
        number = visitor.video.add_click(int(frame), *pointed_at(event))
        is_found = number not in visitor.video.prompts.clicks
        what = f"Correction of object {number}" if is_found else f"Click for object {number}"
        told = f"{what} added; Escape on the picture starts another object. Press Follow."
        return self._show(visitor, int(frame), told, selected=number)

    @guarded
    def on_undo(self, frame: float, request: gr.Request) -> Updates:
        visitor = self.behind.visitor(request)
        if visitor.video is None:
            return self._forgotten()
        visitor.video.undo()
        return self._show(visitor, int(frame), "Took the last step back.")

    def on_phrases(self, text: str) -> Updates:
        """Offers the phrases for boxes, where there are several."""
        try:
            phrases = parse_phrases(text)
        except ValueError:  # too many; "Follow" will say so
            return {}
        return {
            self.box_phrase: gr.Dropdown(choices=[EVERY_PHRASE, *phrases], value=EVERY_PHRASE, visible=len(phrases) > 1)
        }

    def on_other(self, request: gr.Request) -> Updates:
        self.behind.visitor(request).take_video(None)
        return self._empty("")

    @guarded_steps
    def on_run(
        self, text: str, threshold: float, new_threshold: float, frame: float, request: gr.Request
    ) -> Iterator[Updates]:
        visitor = self.behind.visitor(request)
        job = visitor.video
        if job is None:
            yield {self.status: alert(FORGOTTEN.format(what="video"))}
            return
        job.engine = self.behind.engine(visitor)
        job.engine.check_tracker()
        job.set_phrases(parse_phrases(text))
        failure: Exception | None = None
        try:
            for progress in job.run(threshold, new_threshold, MAX_FRAMES):
                yield self._running(job, progress)
        except EXPECTED as error:  # what was found until then is kept and shown
            failure = error
        yield self._finished(visitor, job, int(frame))
        if failure is not None:
            raise failure

    @guarded
    def on_stop(self, request: gr.Request) -> Updates:
        job = self.behind.visitor(request).video
        if job is not None:
            job.cancel()
        return {self.status: message("Stopping after this frame; what was found is kept.")}

    # ---- what is shown ----

    def _running(self, job: VideoJob, progress: Progress) -> Updates:
        of = "" if progress.total is None else f" of {progress.total}"
        share = 100 * progress.done / (progress.total or progress.done)
        words = f"Frame {progress.done}{of}, {progress.done / max(progress.seconds, 1e-3):.1f} frames a second"
        return {
            self.status: "",
            self.run: gr.Button(interactive=False),
            self.stop: gr.Button(interactive=True),
            self.progress: (
                f'<p class="s3-why" role="status">{words}</p><div class="s3-progress" role="progressbar" '
                f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share:.0f}" aria-label="{words}">'
                f'<div style="width:{share:.1f}%"></div></div>'
            ),
            self.preview: gr.Image(value=progress.preview, visible=True),
            self.timeline: timeline_html(job.spans, progress.total or progress.done),
        }

    def _finished(self, visitor: Visitor, job: VideoJob, frame: int) -> Updates:
        updates: Updates = {self.run: gr.Button(interactive=True), self.stop: gr.Button(interactive=False)}
        result = job.result()
        if result is None:
            return updates
        return updates | {
            self.status: message(result.message),
            self.progress: "",
            self.preview: gr.Image(value=None, visible=False),
            self.timeline: timeline_html(job.spans, job.num_frames),
            self.video: gr.Video(value=str(result.video), visible=True),
            self.files: gr.File(value=[str(result.video), str(result.tracks)], visible=True),
            self.stage: self._staged(visitor, frame),
        }

    def _forgotten(self) -> Updates:
        return self._empty(alert(FORGOTTEN.format(what="video")))

    def _empty(self, status: str) -> Updates:
        return {
            self.status: status,
            self.uploader: gr.Video(value=None, visible=True),
            self.stage: gr.HTML(value=None, visible=False),
            self.frame: gr.Slider(visible=False),
            self.undo: gr.Button(visible=False),
            self.other: gr.Button(visible=False),
            self.example: gr.Button(visible=True),
        }

    def _show(self, visitor: Visitor, frame: int, told: str | None, selected: int | None = None) -> Updates:
        job = visitor.video
        assert job is not None
        return {
            self.status: message(told),
            self.uploader: gr.Video(visible=False),
            self.stage: self._staged(visitor, frame, selected),
            self.frame: gr.Slider(visible=True),
            self.other: gr.Button(visible=True),
            self.example: gr.Button(visible=False),
            self.undo: gr.Button(interactive=job.can_undo, visible=True),
            self.run: gr.Button(interactive=True),
        }

    def _staged(self, visitor: Visitor, frame: int, selected: int | None = None) -> gr.HTML:
        """The stage with one frame: what the last run found on it, and the prompts that it has."""
        job = visitor.video
        assert job is not None
        height, width = job.size
        prompts = job.prompts
        objects = [
            scene_object(one["id"], one["label"], one["score"], rle_decode(one["mask"]).numpy(), one["box"])
            for one in job.objects_on(frame)
        ]
        drawn = {
            "width": width,
            "height": height,
            "alt": f"Frame {frame} with {len(objects)} objects.",
            "objects": objects,
            "boxes": [
                {"box": list(one.box), "positive": one.is_positive, "phrase": one.phrase}
                for one in prompts.boxes.get(frame, ())
            ],
            "clicks": [
                {"x": one.x, "y": one.y, "positive": one.is_positive, "number": number}
                for number, by_frame in (*prompts.clicks.items(), *prompts.corrections.items())
                for one in by_frame.get(frame, ())
            ],
        }
        picture = save_shown(job.frame(frame), visitor.folder / f"frame_{frame}.jpg")
        more: dict[str, Any] = {"free": True} if selected is None else {"free": True, "selected": selected}
        return gr.HTML(value=staged(drawn, picture, **more), visible=True)
