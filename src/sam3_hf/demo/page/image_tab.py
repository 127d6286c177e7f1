"""The tab for pictures: phrases, boxes and clicks in, objects out."""

from pathlib import Path
from typing import Any

import gradio as gr

from ..exports import annotated, write_coco, write_cutouts, write_masks
from ..image_session import ImageSession
from ..messages import parse_phrases
from ..models import settings_for
from ..pictures import example_pictures, open_picture
from ..scene import counts_html, scene, table_html
from ..visitors import Visitor
from .parts import EVERY_PHRASE, FORGOTTEN, MODEL_QUEUE, Behind, Tab, alert, guarded, message, score_slider
from .stage import drawn_box, picture_file, pointed_at, save_shown, stage, staged

__all__ = ["ImageTab"]

_LIKE, _UNLIKE = "like this", "not this"
# Files appear as links, and the browser is told to fetch the first one, so that one press is enough.
_FETCH = "() => setTimeout(() => document.querySelector('#s3-files a[download]')?.click(), 400)"

Updates = dict[Any, Any]


class ImageTab(Tab):
    """Components and handlers of the tab; `threshold` is set anew where the model changes."""

    def __init__(self, behind: Behind) -> None:
        super().__init__(behind)
        self.status = gr.HTML(elem_id="s3-image-status")
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=320):
                self._lay_out_picture()
            with gr.Column(scale=2, min_width=300):
                self._lay_out_controls()
        self._lay_out_results()
        self.shown = [
            self.status, self.stage, self.uploader, self.giving, self.other, self.gallery, self.counts, self.table,
            self.undo, self.clear, self.files, self.box_phrase, self.phrases,
        ]  # fmt: skip
        self._wire()

    # ---- layout ----

    def _lay_out_picture(self) -> None:
        with gr.Column() as self.giving:  # hidden as a whole: see `picture_file`
            self.uploader = picture_file(
                label="Your picture: drop, browse, paste or take one",
                sources=["upload", "clipboard", "webcam"],
                height=340,
                buttons=[],
                elem_id="s3-picture",
                alt_text="The picture to search",
            )
        self.stage = stage("s3-stage", visible=False, tools=("select", "like", "unlike", "add", "cut"))
        with gr.Row():
            self.undo = gr.Button("Undo", visible=False, size="sm", min_width=90, elem_id="s3-undo")
            self.clear = gr.Button("Clear boxes", visible=False, size="sm", min_width=90, elem_id="s3-clear")
            self.other = gr.Button("Another picture", visible=False, size="sm", min_width=90, elem_id="s3-other")
        pictures = [(one.image, one.phrases[-1]) for one in example_pictures()]
        self.gallery = gr.Gallery(
            pictures,
            label="Or try one of these, drawn by this package",
            columns=4,
            rows=1,
            allow_preview=False,
            buttons=[],
            interactive=False,
            elem_id="s3-examples",
        )

    def _lay_out_controls(self) -> None:
        self.phrases = gr.Textbox(
            label="What to find",
            info="A phrase, or several: with commas, or one a line (Shift + Enter)",
            placeholder="cyan shape, red shape",
            lines=1,
            max_lines=5,
            elem_id="s3-phrases",
        )
        self.find = gr.Button("Find", variant="primary", elem_id="s3-find")
        self.threshold = score_slider(
            settings_for(self.behind.shelf.default).threshold,
            "Threshold",
            info="Least score that is shown; acts at once, without the model",
            elem_id="s3-threshold",
        )
        self.counts = gr.HTML(elem_id="s3-counts")
        self.table = gr.HTML(elem_id="s3-table")

    def _lay_out_results(self) -> None:
        with gr.Accordion("Take it away", open=True):
            with gr.Row():
                self.get_cutouts = gr.Button("Cut-outs (zip)", size="sm", min_width=120, elem_id="s3-get-cutouts")
                self.get_masks = gr.Button("Masks (zip)", size="sm", min_width=120, elem_id="s3-get-masks")
                self.get_coco = gr.Button("COCO JSON", size="sm", min_width=120, elem_id="s3-get-coco")
                self.get_picture = gr.Button("Annotated PNG", size="sm", min_width=120, elem_id="s3-get-picture")
            self.files = gr.File(label="Your file", visible=False, elem_id="s3-files")
        with gr.Accordion("Boxes by numbers", open=False):
            with gr.Row():
                self.box_text = gr.Textbox(
                    label="Box in pixels: left, top, right, bottom", placeholder="40, 60, 180, 210", elem_id="s3-box"
                )
                self.box_kind = gr.Radio([_LIKE, _UNLIKE], value=_LIKE, label="It shows what is")
                self.box_phrase = gr.Dropdown(
                    [EVERY_PHRASE], value=EVERY_PHRASE, label="Boxes count for", elem_id="s3-box-phrase"
                )
            self.add_box = gr.Button("Add this box", size="sm", elem_id="s3-add-box")

    def _wire(self) -> None:
        runs: dict[str, Any] = {
            "outputs": self.shown,
            "api_visibility": "private",
            "concurrency_id": MODEL_QUEUE,
            "concurrency_limit": 1,
            "show_progress_on": [self.stage],
        }
        light: dict[str, Any] = {"outputs": self.shown, "api_visibility": "private", "show_progress": "hidden"}
        limit = self.threshold
        self.uploader.change(self.on_upload, [self.uploader, limit], **runs)  # `input` does not hear of the clipboard
        self.gallery.select(self.on_example, [limit], **runs)
        gr.on([self.find.click, self.phrases.submit], self.on_find, [self.phrases, limit], **runs)
        self.stage.drawn(self.on_drawn, [self.phrases, self.box_phrase, limit], **runs)
        self.stage.pointed(self.on_pointed, [limit], **runs)
        self.add_box.click(self.on_box, [self.box_text, self.box_kind, self.phrases, self.box_phrase, limit], **runs)
        limit.change(self.on_threshold, [limit], queue=False, trigger_mode="always_last", **light)
        self.undo.click(self.on_undo, [limit], **light)
        self.clear.click(self.on_clear, [limit], **runs)
        self.other.click(self.on_other, None, **light)
        for button, kind in (
            (self.get_cutouts, self.on_cutouts),
            (self.get_masks, self.on_masks),
            (self.get_coco, self.on_coco),
            (self.get_picture, self.on_picture),
        ):
            made = button.click(kind, [limit], [self.status, self.files], api_visibility="private")
            made.success(None, None, None, js=_FETCH)

    # ---- handlers ----

    @guarded
    def on_upload(self, path: str | None, threshold: float, request: gr.Request) -> Updates:
        if path is None:
            return {}
        image, told = open_picture(path)
        return self._begin(self.behind.visitor(request), image, threshold, told)

    @guarded
    def on_example(self, threshold: float, request: gr.Request, event: gr.SelectData) -> Updates:
        example = example_pictures()[int(event.index)]
        visitor = self.behind.visitor(request)
        updates = self._begin(visitor, example.image, threshold, None)
        assert visitor.image is not None
        visitor.image.find(example.phrases)
        return updates | self._show(visitor, threshold, None) | {self.phrases: ", ".join(example.phrases)}

    def _begin(self, visitor: Visitor, image: Any, threshold: float, told: str | None) -> Updates:
        """Takes a new picture and looks at it at once, so that the first answer comes fast."""
        session = ImageSession(self.behind.engine(visitor), image)
        session.encode()
        visitor.take_image(session)
        save_shown(image, self._picture_file(visitor))
        return self._show(visitor, threshold, told or "Ready: type what to find, or draw a box around an example.")

    @guarded
    def on_find(self, text: str, threshold: float, request: gr.Request) -> Updates:
        visitor, session = self._session(request)
        if session is None:
            return self._forgotten(visitor)
        session.use(self.behind.engine(visitor))
        session.find(parse_phrases(text))
        return self._show(visitor, threshold, None)

    @guarded
    def on_drawn(
        self, text: str, phrase: str | None, threshold: float, request: gr.Request, event: gr.EventData
    ) -> Updates:
        box, is_positive = drawn_box(event)
        return self._add(box, is_positive, text, phrase, threshold, request)

    @guarded
    def on_box(
        self, numbers: str, kind: str, text: str, phrase: str | None, threshold: float, request: gr.Request
    ) -> Updates:
        try:
            box = [float(part) for part in numbers.replace(",", " ").split()]
        except ValueError:
            raise ValueError(f"{numbers!r} is no box; expected four numbers: left, top, right, bottom.") from None
        return self._add(box, kind == _LIKE, text, phrase, threshold, request)

    def _add(
        self,
        box: list[float],
        is_positive: bool,
        text: str,
        phrase: str | None,
        threshold: float,
        request: gr.Request,
    ) -> Updates:
        visitor, session = self._session(request)
        if session is None:
            return self._forgotten(visitor)
        session.use(self.behind.engine(visitor))
        phrases = parse_phrases(text)
        session.add_box(box, is_positive, phrase if phrase in phrases else None, phrases)
        return self._show(visitor, threshold, None)

    @guarded
    def on_pointed(self, threshold: float, request: gr.Request, event: gr.EventData) -> Updates:
        visitor, session = self._session(request)
        if session is None:
            return self._forgotten(visitor)
        x, y, is_positive, number = pointed_at(event)
        if number is None:
            raise ValueError("Choose the object first: click it with the tool “Select”.")
        session.refine(number, x, y, is_positive)
        return self._show(visitor, threshold, f"Object {number} refined; no other object changes.")

    @guarded
    def on_threshold(self, threshold: float, request: gr.Request) -> Updates:
        visitor, session = self._session(request)
        return {} if session is None else self._show(visitor, threshold, None)

    @guarded
    def on_undo(self, threshold: float, request: gr.Request) -> Updates:
        visitor, session = self._session(request)
        if session is None:
            return self._forgotten(visitor)
        session.undo()
        return self._show(visitor, threshold, "Took the last step back.")

    @guarded
    def on_clear(self, threshold: float, request: gr.Request) -> Updates:
        visitor, session = self._session(request)
        if session is None:
            return self._forgotten(visitor)
        session.clear_boxes()
        return self._show(visitor, threshold, None)

    def on_other(self, request: gr.Request) -> Updates:
        self.behind.visitor(request).take_image(None)
        return self._empty("")

    @guarded
    def on_cutouts(self, threshold: float, request: gr.Request) -> Updates:
        visitor, session = self._some(request)
        path = visitor.folder / "cutouts.zip"
        return self._file(write_cutouts(path, session.objects(threshold), session.image))

    @guarded
    def on_masks(self, threshold: float, request: gr.Request) -> Updates:
        visitor, session = self._some(request)
        return self._file(write_masks(visitor.folder / "masks.zip", session.objects(threshold)))

    @guarded
    def on_coco(self, threshold: float, request: gr.Request) -> Updates:
        visitor, session = self._some(request)
        return self._file(write_coco(visitor.folder / "annotations.json", session.objects(threshold), session.size))

    @guarded
    def on_picture(self, threshold: float, request: gr.Request) -> Updates:
        visitor, session = self._some(request)
        path = visitor.folder / "annotated.png"
        annotated(session.image, session.objects(threshold)).save(path)
        return self._file(path)

    # ---- what is shown ----

    def _session(self, request: gr.Request) -> tuple[Visitor, ImageSession | None]:
        visitor = self.behind.visitor(request)
        return visitor, visitor.image

    def _some(self, request: gr.Request) -> tuple[Visitor, ImageSession]:
        visitor, session = self._session(request)
        if session is None:
            raise ValueError("There is no picture yet: upload one, or choose an example; then find something in it.")
        return visitor, session

    def _picture_file(self, visitor: Visitor) -> Path:
        return visitor.folder / "shown.jpg"

    def _file(self, path: Path) -> Updates:
        return {self.status: "", self.files: gr.File(value=str(path), visible=True)}

    def _forgotten(self, visitor: Visitor) -> Updates:
        """No picture: never one, or the page is older than the server's memory; back to where one can be given."""
        return self._empty(alert(FORGOTTEN.format(what="picture")))

    def _empty(self, status: str) -> Updates:
        return {
            self.status: status,
            self.stage: gr.HTML(value=None, visible=False),
            self.uploader: None,
            self.giving: gr.Column(visible=True),
            self.undo: gr.Button(visible=False),
            self.clear: gr.Button(visible=False),
            self.other: gr.Button(visible=False),
            self.gallery: gr.Gallery(visible=True),
            self.counts: "",
            self.table: "",
            self.files: gr.File(value=None, visible=False),
        }

    def _show(self, visitor: Visitor, threshold: float, told: str | None) -> Updates:
        session = visitor.image
        assert session is not None
        objects, prompts = session.objects(threshold), session.prompts
        return {
            self.status: message(told),
            self.stage: gr.HTML(value=staged(scene(session, objects), self._picture_file(visitor)), visible=True),
            self.giving: gr.Column(visible=False),
            self.other: gr.Button(visible=True),
            self.gallery: gr.Gallery(visible=False),
            self.counts: counts_html(session.answers(), objects, threshold),
            self.table: table_html(objects),
            self.undo: gr.Button(interactive=session.can_undo, visible=True),
            self.clear: gr.Button(interactive=bool(prompts.boxes), visible=True),
            self.files: gr.File(value=None, visible=False),
            self.box_phrase: gr.Dropdown(choices=[EVERY_PHRASE, *prompts.phrases]),
        }
