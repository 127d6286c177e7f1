"""The page: header, model choice, three tabs, the API; and how it is served."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ..messages import explain_error
from ..models import RELEASED, ModelShelf, model_note, settings_for
from ..visitors import Visitors
from .api import Api
from .compare_tab import CompareTab
from .image_tab import ImageTab
from .parts import EXPECTED, Behind, alert, guarded, message
from .video_tab import VideoTab

__all__ = ["build_page", "serve"]

_HEAD = """<div class="s3-head"><h1>SAM 3: find every object of a phrase</h1>
<p>Type a phrase and see every object that it names; draw a box around one more; click to fix an edge; drop a video;
take the result away.</p></div>"""
_TURN = "() => { document.body.classList.toggle('dark'); }"
_MAX_UPLOAD = "200mb"
_IDLE_CHECK_S, _FILE_AGE_S = 600, 3600


class Header:
    """Title, model choice and device; a new model sets the sliders of the tabs to what suits it."""

    def __init__(self, behind: Behind) -> None:
        self.behind = behind
        shelf = behind.shelf
        with gr.Row(equal_height=True):
            with gr.Column(scale=4, min_width=300):
                gr.HTML(_HEAD)
            with gr.Column(scale=2, min_width=260):
                self.model = gr.Dropdown(
                    shelf.choices,
                    value=shelf.default,
                    allow_custom_value=shelf.any_name,
                    label="Model",
                    info="Or type a directory or a hub repository" if shelf.any_name else None,
                    elem_id="s3-model",
                )
            with gr.Column(scale=1, min_width=120):
                self.dark = gr.Button("Light / dark", size="sm", elem_id="s3-dark")
                self.device = gr.HTML(f'<p class="s3-device">Runs on: {device_name(shelf)}</p>', elem_id="s3-device")
        self.status = gr.HTML(message(model_note(shelf.default)), elem_id="s3-model-status")
        self.dark.click(None, None, None, js=_TURN)

    def wire(self, sliders: Sequence[gr.Slider], new_sliders: Sequence[gr.Slider]) -> None:
        """Says which sliders hold thresholds."""
        self.sliders, self.new_sliders = list(sliders), list(new_sliders)
        self.model.input(
            self.on_model,
            [self.model],
            [self.model, self.status, self.device, *self.sliders, *self.new_sliders],
            api_visibility="private",
            concurrency_limit=1,
        )

    @guarded
    def on_model(self, name: str, request: gr.Request) -> dict[Any, Any]:
        name, visitor = (name or "").strip(), self.behind.visitor(request)
        before = visitor.model or self.behind.shelf.default
        try:
            engine = self.behind.shelf.open(name)
        except EXPECTED as error:
            if (text := explain_error(error)) is None:
                raise
            note = f"{model_note(name)} " if name == RELEASED else ""
            told = alert(f"{note}It was not opened, “{before}” stays in use: {text}")
            return {self.model: before, self.status: told}
        visitor.model = name
        settings = settings_for(name)
        updates: dict[Any, Any] = {
            self.status: message(model_note(name)),
            self.device: f'<p class="s3-device">Runs on: {engine.device}</p>',
        }
        updates |= {slider: settings.threshold for slider in self.sliders}
        return updates | {slider: settings.new_threshold for slider in self.new_sliders}


def device_name(shelf: ModelShelf) -> str:
    """Where the default model runs."""
    return str(shelf.open().device)


def build_page(shelf: ModelShelf, visitors: Visitors | None = None) -> gr.Blocks:
    """The page, ready to be served; the default model is opened.

    Args:
        shelf: the models that are offered.
        visitors: what is kept of users.
    """
    behind = Behind(shelf, Visitors() if visitors is None else visitors)
    with gr.Blocks(title="SAM 3 demo", analytics_enabled=False, delete_cache=(_IDLE_CHECK_S, _FILE_AGE_S)) as page:
        header = Header(behind)
        with gr.Tabs():
            with gr.Tab("Image", id="image"):
                image = ImageTab(behind)
            with gr.Tab("Video", id="video"):
                video = VideoTab(behind)
            with gr.Tab("Compare", id="compare"):
                compare = CompareTab(behind)
        Api(behind)
        header.wire([image.threshold, video.threshold, compare.threshold], [video.new_threshold])

        def leave(request: gr.Request) -> None:
            behind.visitors.leave(request.session_hash)

        page.unload(leave)
    page.queue(max_size=32)
    return page


def _theme() -> gr.themes.Base:
    """Fonts of the reader's system; colours that keep a contrast of 4.5 to 1 for text, light and dark."""
    sans = ("ui-sans-serif", "system-ui", "sans-serif")
    return gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=sans).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
    )


def serve(page: gr.Blocks, **options: Any) -> tuple[Any, str, str]:
    """Serves the page; what `gr.Blocks.launch` gives. `options` go there."""
    return page.launch(
        theme=_theme(),
        css=(Path(__file__).parent / "style.css").read_text(encoding="utf-8"),
        max_file_size=_MAX_UPLOAD,
        show_error=True,
        footer_links=["api", "settings"],
        **options,
    )
