"""The files of an evaluation: metrics.json, per_phrase.csv, report.md, report.html and pictures."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import write_text_whole
from .annotations import AnnotatedPairs
from .coco_format import save_json
from .contact_sheet import select_cases
from .pictures import PictureSource
from .plots import PLOTS, draw_plots
from .report import report_sections, to_html, to_markdown
from .results import Results
from .scoring import Scores

__all__ = ["FILES", "METRICS", "write_evaluation"]

METRICS = "metrics.json"
FILES = (METRICS, "per_phrase.csv", "report.md", "report.html", "cases.png", *(file for _, file in PLOTS))


def write_evaluation(
    scores: Scores,
    folder: Path,
    annotated: AnnotatedPairs,
    results: Results,
    images: PictureSource | None = None,
    about: Mapping[str, Any] | None = None,
) -> list[str]:
    """Writes the files into `folder`, each whole or not at all, metrics.json last; returns titles of missing plots.

    `images` are the pictures (a folder, say), for the contact sheet; `about` says in metrics.json what was evaluated.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cases = select_cases(scores, annotated, results, images)
    pictures, missing = draw_plots(scores, folder, cases)
    sections = report_sections(scores, pictures, missing)
    write_text_whole(to_markdown(sections), folder / "report.md")
    write_text_whole(to_html(sections), folder / "report.html")
    write_text_whole(_table(scores.phrases, "phrase"), folder / "per_phrase.csv")
    save_json(scores.as_json() | {"evaluated": dict(about or {})}, folder / METRICS)
    return missing


def _table(groups: Mapping[str, Mapping[str, float]], first: str) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for number, (name, figures) in enumerate(groups.items()):
        if number == 0:
            writer.writerow([first, *figures])
        cells = (f"{value:.0f}" if key.startswith("num_") else f"{value:.6f}" for key, value in figures.items())
        writer.writerow([name, *cells])
    return buffer.getvalue()
