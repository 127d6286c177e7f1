"""What the page shows of a session: the drawing over the picture, table, counts and explanations; no Gradio here."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..visualization import instance_color
from .engine import Answer
from .image_session import FoundObject, ImageSession
from .outlines import mask_to_path

__all__ = ["counts_html", "css_color", "explain_answer", "scene", "scene_object", "table_html"]

_FINEST = 640  # outlines are drawn from masks of at most this many pixels a side: more is not to be seen, but costs


def scene(session: ImageSession, objects: Sequence[FoundObject]) -> dict[str, Any]:
    """Everything that is drawn over the picture, as plain data in pixels of the picture.

    `width`, `height`, `alt`; `objects` as `scene_object` gives them; `boxes` {"box", "positive", "phrase"}; `clicks`
    {"x", "y", "positive", "number"}.
    """
    height, width = session.size
    return {
        "width": width,
        "height": height,
        "alt": describe(objects),
        "objects": [
            scene_object(one.number, one.label, one.score, one.mask, _tuple(one.box), one.is_refined) for one in objects
        ],
        "boxes": [
            {"box": _tuple(one.box), "positive": one.is_positive, "phrase": one.phrase} for one in session.prompts.boxes
        ],
        "clicks": [
            {"x": click.x, "y": click.y, "positive": click.is_positive, "number": number}
            for number, clicks in session.prompts.clicks.items()
            for click in clicks
        ],
    }


def scene_object(
    number: int, label: str, score: float, mask: np.ndarray, box: Sequence[float], is_refined: bool = False
) -> dict[str, Any]:
    """One object of a scene: `number`, `label`, `score`, `color`, `path` (SVG), `box`, `refined`."""
    step = max(1, -(-max(mask.shape) // _FINEST))
    return {
        "number": number,
        "label": label,
        "score": round(score, 3),
        "color": css_color(number),
        "path": mask_to_path(mask[::step, ::step], step, cut=1.0),
        "box": [round(float(value), 1) for value in box],
        "refined": is_refined,
    }


def css_color(number: int) -> str:
    """The colour of an object, as CSS writes it: the same as in annotated pictures and videos."""
    return "#{:02x}{:02x}{:02x}".format(*instance_color(number))


def describe(objects: Sequence[FoundObject]) -> str:
    """One sentence for those who cannot see the picture."""
    if not objects:
        return "The picture, with no objects marked."
    counts: dict[str, int] = {}
    for one in objects:
        counts[one.label] = counts.get(one.label, 0) + 1
    return "The picture with marked objects: " + ", ".join(f"{n} of “{label}”" for label, n in counts.items()) + "."


def table_html(objects: Sequence[FoundObject]) -> str:
    """A table of the objects: colour and number, phrase, score, area in pixels, box."""
    if not objects:
        return ""
    rows = []
    for one in objects:
        refined = ' <span class="s3-note">refined</span>' if one.is_refined else ""
        corners = ", ".join(f"{value:.0f}" for value in one.box)
        rows.append(
            f'<tr><td><span class="s3-dot" style="background:{css_color(one.number)}"></span>'
            f"{one.number}</td><td>{html.escape(one.label)}{refined}</td><td>{one.score:.2f}</td>"
            f"<td>{one.area:,}</td><td>{corners}</td></tr>"
        )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("#", "phrase", "score", "area", "box"))
    return (
        '<div class="s3-scroll" tabindex="0" role="region" aria-label="Objects that were found">'
        '<table class="s3-table"><caption>Area and box (left, top, right, bottom) in pixels</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def counts_html(answers: Sequence[Answer], objects: Sequence[FoundObject], threshold: float) -> str:
    """How many objects each phrase has, and for phrases without any, why."""
    chips, reasons = [], []
    for answer in answers:
        label = answer.phrase or "visual"
        count = sum(one.label == label for one in objects)
        kind = "s3-chip" if count else "s3-chip s3-none"
        chips.append(f'<span class="{kind}"><b>{count}</b> {html.escape(label)}</span>')
        if not count:
            reasons.append(f'<p class="s3-why">{html.escape(explain_answer(answer, threshold))}</p>')
    return f'<div class="s3-chips" role="status">{"".join(chips)}</div>{"".join(reasons)}' if chips else ""


def explain_answer(answer: Answer, threshold: float) -> str:
    """Why something was found or not: in words, from the presence and the scores, which are products with it."""
    name = f"“{answer.phrase}”" if answer.phrase else "what the boxes show"
    found = answer.above(threshold)
    presence = f"presence {answer.presence:.2f}"
    if found:
        many = "1 object" if len(found) == 1 else f"{len(found)} objects"
        return f"Found {many} of {name}, the best with a score of {found[0].score:.2f} ({presence})."
    if answer.presence < 0.5:
        start = f"Nothing found for {name}: the model thinks that it is not in the picture ({presence})"
    else:
        start = f"Nothing found for {name}, although the model thinks that it is in the picture ({presence})"
    if answer.candidates:
        return (
            f"{start}; the best candidate scores {answer.candidates[0].score:.2f}, below the threshold {threshold:.2f}."
        )
    return f"{start}; no candidate comes near. Try other words, or draw a box around an example."


def _tuple(values: Sequence[float]) -> list[float]:
    return [round(float(value), 1) for value in values]
