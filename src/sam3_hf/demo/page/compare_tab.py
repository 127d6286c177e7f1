"""The tab that compares: one picture and phrase without and with example boxes, and why something was found or not."""

import html
from collections.abc import Sequence
from typing import Any

import gradio as gr

from ..engine import Answer
from ..image_session import FoundObject, ImageSession
from ..messages import parse_phrases
from ..models import settings_for
from ..pictures import example_pictures
from ..scene import explain_answer, scene
from ..visitors import Visitor
from .parts import MODEL_QUEUE, Behind, Tab, guarded, message, score_slider
from .stage import drawn_box, save_shown, stage, staged

__all__ = ["CompareTab"]

Updates = dict[Any, Any]


class CompareTab(Tab):
    """Components and handlers of the tab. It works on the picture of the tab for pictures."""

    def __init__(self, behind: Behind) -> None:
        super().__init__(behind)
        gr.Markdown(
            "The same picture, asked twice. The **presence** is the model's answer to “is it in the picture at all?”: "
            "it is a factor of every object's score. Draw boxes on either picture and see what they change."
        )
        self.status = gr.HTML(elem_id="s3-compare-status")
        with gr.Row():
            self.phrase = gr.Textbox(label="Phrase", placeholder="red shape", elem_id="s3-compare-phrase", scale=3)
            self.threshold = score_slider(settings_for(behind.shelf.default).threshold, "Threshold", scale=2)
        with gr.Row():
            self.compare = gr.Button("Compare", variant="primary", elem_id="s3-compare")
            self.clear = gr.Button("Clear boxes", elem_id="s3-compare-clear")
            self.example = gr.Button("Use our example", elem_id="s3-compare-example")
        with gr.Row(equal_height=False):
            self.without, self.without_why = self._side("Text only", "s3-without")
            self.with_boxes, self.with_why = self._side("Text and your boxes", "s3-with")
        self.shown = [
            self.status, self.phrase, self.without, self.without_why, self.with_boxes, self.with_why,
        ]  # fmt: skip
        self._wire()

    def _side(self, title: str, elem_id: str) -> tuple[gr.HTML, gr.HTML]:
        with gr.Column(min_width=300):
            gr.Markdown(f"### {title}")
            return stage(elem_id, visible=False, tools=("select", "like", "unlike")), gr.HTML(elem_id=f"{elem_id}-why")

    def _wire(self) -> None:
        runs: dict[str, Any] = {
            "outputs": self.shown,
            "api_visibility": "private",
            "concurrency_id": MODEL_QUEUE,
            "concurrency_limit": 1,
        }
        inputs = [self.phrase, self.threshold]
        gr.on([self.compare.click, self.phrase.submit], self.on_compare, inputs, **runs)
        self.clear.click(self.on_clear, inputs, **runs)
        self.example.click(self.on_example, [self.threshold], **runs)
        for one in (self.without, self.with_boxes):
            one.drawn(self.on_drawn, inputs, **runs)
        self.threshold.change(
            self.on_threshold, inputs, self.shown, queue=False, api_visibility="private", show_progress="hidden"
        )

    # ---- handlers ----

    @guarded
    def on_compare(self, text: str, threshold: float, request: gr.Request) -> Updates:
        visitor, session = self._session(request)
        session.find(self._one_phrase(text))
        return self._show(visitor, session, threshold)

    @guarded
    def on_drawn(self, text: str, threshold: float, request: gr.Request, event: gr.EventData) -> Updates:
        visitor, session = self._session(request)
        session.find(self._one_phrase(text))
        session.add_box(*drawn_box(event))
        return self._show(visitor, session, threshold)

    @guarded
    def on_clear(self, text: str, threshold: float, request: gr.Request) -> Updates:
        visitor, session = self._session(request)
        session.clear_boxes()
        return self._show(visitor, session, threshold)

    @guarded
    def on_example(self, threshold: float, request: gr.Request) -> Updates:
        """Our first picture, its last phrase, and a box around the best of what the phrase alone finds."""
        visitor = self.behind.visitor(request)
        example = example_pictures()[0]
        visitor.compared = session = ImageSession(self.behind.engine(visitor), example.image)
        session.find(example.phrases[-1:])
        if found := session.objects(threshold):
            session.add_box(found[0].box)
        return self._show(visitor, session, threshold) | {self.phrase: example.phrases[-1]}

    @guarded
    def on_threshold(self, text: str, threshold: float, request: gr.Request) -> Updates:
        visitor = self.behind.visitor(request)
        session = visitor.compared
        return {} if session is None or not session.prompts.phrases else self._show(visitor, session, threshold)

    # ---- what is shown ----

    def _session(self, request: gr.Request) -> tuple[Visitor, ImageSession]:
        visitor = self.behind.visitor(request)
        picture = visitor.image
        if picture is not None and (visitor.compared is None or visitor.compared.image is not picture.image):
            visitor.compared = picture.twin()
        if visitor.compared is None:
            raise ValueError("There is no picture yet: give one in the tab “Image”, or press “Use our example”.")
        visitor.compared.use(self.behind.engine(visitor))
        return visitor, visitor.compared

    def _one_phrase(self, text: str) -> list[str]:
        phrases = parse_phrases(text)
        if len(phrases) != 1:
            raise ValueError(f"{len(phrases)} phrases; expected exactly one to compare, such as “red shape”.")
        return phrases

    def _show(self, visitor: Visitor, session: ImageSession, threshold: float) -> Updates:
        plain = session.twin()
        plain.share_answers(session)
        plain.find(session.prompts.phrases)
        picture = save_shown(session.image, visitor.folder / "compared.jpg")
        updates: Updates = {self.status: message(None)}
        for one, view, why in ((plain, self.without, self.without_why), (session, self.with_boxes, self.with_why)):
            objects = one.objects(threshold)
            updates[view] = gr.HTML(value=staged(scene(one, objects), picture), visible=True)
            updates[why] = _why(one.answers()[0], objects, threshold)
        if not session.prompts.boxes:
            updates[self.with_why] = message("No boxes yet: draw one on a picture with the tool “Box: like this”.")
        return updates


def _why(answer: Answer, objects: Sequence[FoundObject], threshold: float) -> str:
    """Presence as a meter, and the rest in words."""
    return (
        f'<p class="s3-why"><label>Presence <meter min="0" max="1" low="0.5" high="0.5" optimum="1" '
        f'value="{answer.presence:.3f}">{answer.presence:.2f}</meter> <b>{answer.presence:.2f}</b></label> · '
        f"{len(objects)} shown</p><p class='s3-why'>{html.escape(explain_answer(answer, threshold))}</p>"
    )
