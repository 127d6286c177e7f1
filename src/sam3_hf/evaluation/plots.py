"""Plots of `Scores` with matplotlib, and a contact sheet of cases with Pillow."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .contact_sheet import Case, draw_cases
from .scoring import Scores

__all__ = ["PLOTS", "draw_plots"]

# Title and file; all but the last need matplotlib.
PLOTS = (
    ("Precision and recall", "precision_recall.png"),
    ("Calibration of score against IoU", "calibration.png"),
    ("cgF1 over the score threshold", "cgf1_over_threshold.png"),
    ("Domains", "domains.png"),
)
_CASES = ("Best and worst cases", "cases.png")
_MOST_DOMAINS = 30
_BLUE, _ORANGE, _GREEN = "#3465a4", "#d9822b", "#4c9a52"


def draw_plots(scores: Scores, folder: Path, cases: Sequence[Case] = ()) -> tuple[list[tuple[str, str]], list[str]]:
    """Title and file of the pictures that were written into `folder`, and the titles of those that need matplotlib."""
    written, missing = [], []
    if importlib.util.find_spec("matplotlib") is None:
        missing = [title for title, _ in PLOTS]
    else:
        draw = (_precision_recall, _calibration, _over_threshold, _domains)
        for (title, file), function in zip(PLOTS, draw, strict=True):
            figure = _figure(title)
            if function(figure, scores):
                _save(figure, folder / file)
                written.append((title, file))
    if cases:
        sheet = draw_cases(cases)
        temporary = folder / f".{_CASES[1]}.tmp"
        sheet.save(temporary, format="PNG")
        temporary.replace(folder / _CASES[1])
        written.append(_CASES)
    return written, missing


def _figure(title: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), dpi=120, layout="constrained")
    figure.suptitle(title)
    return figure


def _save(figure: Any, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png")
    temporary.replace(path)


def _precision_recall(figure: Any, scores: Scores) -> bool:
    curves = {iou: points for iou, points in scores.curves["precision_recall"].items() if points}
    axes = figure.subplots()
    for (iou, points), color in zip(curves.items(), (_BLUE, _ORANGE), strict=False):
        recall, precision = ([point[name] for point in points] for name in ("recall", "precision"))
        axes.plot(recall, precision, color=color, label=f"IoU ≥ {iou}", marker="." if len(points) < 3 else "")
        at = min(points, key=lambda point: abs(point["score"] - scores.settings["threshold"]))
        axes.plot(at["recall"], at["precision"], "o", color=color)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    if curves:
        axes.legend(title=f"{scores.curves['of']}; dot: score {scores.settings['threshold']:g}")
    return bool(curves)


def _calibration(figure: Any, scores: Scores) -> bool:
    bins = scores.curves["calibration"]
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    middle = [(one["from"] + one["to"]) / 2 for one in bins]
    axes.bar(middle, [one["mean_iou"] for one in bins], width=0.09, color=_BLUE, label="mean IoU")
    axes.plot([0, 1], [0, 1], "--", color="grey", label="score = IoU")
    axes.set(ylabel="mean IoU with its object", ylim=(0, 1))
    axes.legend(loc="upper left")
    below.bar(middle, [one["answers"] for one in bins], width=0.09, color="grey")
    below.set(xlabel="score", ylabel="answers", xlim=(0, 1), yscale="log")
    return bool(bins)


def _over_threshold(figure: Any, scores: Scores) -> bool:
    points = scores.curves["cgF1_over_threshold"]
    axes = figure.subplots()
    names = {"cgF1": _BLUE, "positive_micro_F1": _ORANGE, "IL_MCC": _GREEN}
    for name, color in names.items():
        axes.plot([one["threshold"] for one in points], [one[name] for one in points], ".-", color=color, label=name)
    axes.axvline(scores.settings["threshold"], color="grey", linestyle="--", linewidth=1)
    axes.set(xlabel="score threshold", xlim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(title=scores.curves["of"])
    return bool(points)


def _domains(figure: Any, scores: Scores) -> bool:
    """Bars of the largest domains; nothing where there is only one."""
    largest = sorted(scores.domains, key=lambda name: (-scores.domains[name]["num_pairs"], name))[:_MOST_DOMAINS]
    names = sorted(largest, reverse=True)
    figure.set_size_inches(6.4, max(2.4, 1.4 + 0.5 * len(names)))
    axes = figure.subplots()
    figures = {"IL_MCC": _GREEN, "positive_micro_F1": _ORANGE, "cgF1": _BLUE}
    for row, (name, color) in enumerate(figures.items()):
        place = [at + 0.26 * (row - 1) for at in range(len(names))]
        axes.barh(place, [scores.domains[one][name] for one in names], height=0.24, color=color, label=name)
    axes.set_yticks(range(len(names)), [f"{one if len(one) < 28 else one[:27] + '…'}" for one in names])
    low = min(0.0, *(scores.domains[one][name] for one in names for name in figures))
    axes.set(xlim=(low, 1))
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, reverse=True)
    return len(scores.domains) > 1
