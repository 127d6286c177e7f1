"""The stage: the picture that users look at, draw on and click on, a component with a page script of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.data_classes import FileData
from PIL import Image

__all__ = ["drawn_box", "picture_file", "pointed_at", "save_shown", "stage", "staged"]

_HERE = Path(__file__).parent


def _tool(name: str, title: str, content: str) -> str:
    return f'<button type="button" data-tool="{name}" aria-pressed="false" title="{title}">{content}</button>'


# What clicks and drags do; the page's script knows them by these names ("object" is "add" under another name).
TOOLS = {
    "select": _tool("select", "Click an object to select it", "Select"),
    "like": _tool("like", "Draw a box around an example", '<i class="s3-plus"></i>Box: like this'),
    "unlike": _tool("unlike", "Draw a box around what is not meant", '<i class="s3-minus"></i>Box: not this'),
    "add": _tool("add", "Click what belongs to the object", "<b>+</b> Click: add"),
    "object": _tool("add", "Click an object to follow it", "<b>+</b> Click: an object"),
    "cut": _tool("cut", "Click what does not belong to it", "<b>&minus;</b> Click: cut"),
}
_SHOWN_SIDE = 1280  # of the picture as it is sent to the page; boxes and masks keep counting in its own pixels


def picture_file(**options: Any) -> gr.Image:
    """A `gr.Image` that hands on the path of the file as it came: what is wrong with it, we say ourselves.

    A method of one component is replaced: for a subclass Gradio would write a stub file into this package. So it may be
    given new values, but no new properties, for which Gradio would make another component.
    """
    component = gr.Image(type="filepath", **options)
    component.preprocess = lambda payload: None if payload is None else payload.path
    return component


def stage(elem_id: str, visible: bool = True, tools: Sequence[str] = ("select",)) -> gr.HTML:
    """A stage, with the events `drawn` (a box) and `pointed` (a point); its value is what `staged` gives, or None.

    `tools` are those of `TOOLS` that it offers.
    """
    template = (_HERE / "stage.html").read_text(encoding="utf-8")
    return gr.HTML(
        value=None,
        html_template=template.replace("<!-- tools -->", "".join(TOOLS[name] for name in tools)),
        js_on_load=(_HERE / "stage.js").read_text(encoding="utf-8"),
        elem_id=elem_id,
        visible=visible,
        apply_default_css=False,
    )


def staged(scene: dict[str, Any], picture: Path, **more: Any) -> dict[str, Any]:
    """The value of a stage: what `demo.scene.scene` gives, over the picture that `save_shown` wrote."""
    return {**scene, "picture": FileData(path=str(picture)).model_dump(), **more}


def save_shown(image: Image.Image | np.ndarray, path: Path) -> Path:
    """The path of the picture as the page shows it: JPEG, made smaller where it is large."""
    shown = Image.fromarray(image) if isinstance(image, np.ndarray) else image.copy()
    shown.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE), reducing_gap=2.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    shown.convert("RGB").save(path, format="JPEG", quality=90)
    return path


def drawn_box(event: gr.EventData) -> tuple[list[float], bool]:
    """Box xyxy in pixels and whether it shows what is meant, of a `drawn` event."""
    data: dict[str, Any] = event._data
    return [float(value) for value in data["box"]], bool(data["positive"])


def pointed_at(event: gr.EventData) -> tuple[float, float, bool, int | None]:
    """x, y, whether it belongs to the object, and the object's number or None, of a `pointed` event."""
    data: dict[str, Any] = event._data
    number = data.get("number")
    return float(data["x"]), float(data["y"]), bool(data["positive"]), None if number is None else int(number)
