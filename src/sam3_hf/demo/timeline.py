"""The timeline of a video: for each object a bar where it is in view, as SVG."""

import html
from collections.abc import Mapping

from .scene import css_color

__all__ = ["bars", "timeline_html"]

_WIDTH, _ROW, _BAR, _NAME = 960, 26, 14, 170


def bars(frames: Mapping[int, str]) -> list[tuple[int, int]]:
    """(first, last) of each stretch of frames on which an object is in view."""
    stretches: list[tuple[int, int]] = []
    for frame in sorted(frames):
        if stretches and stretches[-1][1] == frame - 1:
            stretches[-1] = (stretches[-1][0], frame)
        else:
            stretches.append((frame, frame))
    return stretches


def timeline_html(spans: Mapping[int, Mapping[int, str]], num_frames: int) -> str:
    """A drawing with a row for each object (number and label), a bar for each stretch in view, and words for all that.

    Args:
        spans: by object, its label on each frame where it is in view.
        num_frames: of the video.
    """
    if not spans:
        return ""
    rows = []
    for row, (number, frames) in enumerate(sorted(spans.items())):
        label = next(iter(frames.values()))
        stretches = bars(frames)
        in_words = ", ".join(f"{first} to {last}" if last > first else str(first) for first, last in stretches)
        drawn = "".join(_bar(first, last, row, number, num_frames) for first, last in stretches)
        rows.append(
            f"<g><title>{number} {html.escape(label)}: frames {in_words}</title>"
            f'<text x="0" y="{row * _ROW + 17}">{number} {html.escape(_cut(label))}</text>'
            f'<rect class="s3-track" x="{_NAME}" y="{row * _ROW + 5}" width="{_WIDTH - _NAME}" height="{_BAR}" rx="3"/>'
            f"{drawn}</g>"
        )
    height = len(spans) * _ROW + 22
    axis = (
        f'<text x="{_NAME}" y="{height - 5}">frame 0</text>'
        f'<text x="{_WIDTH}" y="{height - 5}" text-anchor="end">{num_frames - 1}</text>'
    )
    return (
        f'<div class="s3-scroll"><svg class="s3-timeline" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="Timeline: when each of {len(spans)} objects is in view">{"".join(rows)}{axis}</svg></div>'
    )


def _bar(first: int, last: int, row: int, number: int, num_frames: int) -> str:
    unit = (_WIDTH - _NAME) / max(num_frames, 1)
    x, width = _NAME + first * unit, max(2.0, (last - first + 1) * unit)
    place = f'x="{x:.1f}" y="{row * _ROW + 5}" width="{width:.1f}" height="{_BAR}"'
    return f'<rect {place} rx="3" fill="{css_color(number)}"/>'


def _cut(label: str) -> str:
    return label if len(label) <= 19 else label[:18] + "…"
