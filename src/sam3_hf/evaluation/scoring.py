"""From annotated pairs and checked results to every figure of an evaluation: `score_results`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from .agreement import human_agreement
from .annotations import AnnotatedPair, AnnotatedPairs
from .bootstrap import confidence_intervals
from .coco_ap import coco_ap
from .counting import count_errors, count_many
from .curves import calibration, precision_recall
from .judge import CURVE_THRESHOLDS, Judge
from .lvis_ap import lvis_ap
from .predictions import ConceptPrediction
from .results import Results
from .tally import DEFINITIONS, figures_of, floats

__all__ = ["ScoreSettings", "Scores", "score_results"]

_PAIRS_AT_ONCE = 256
_PREFIX = {"segm": "", "bbox": "box_"}
_PR_IOUS = (0.5, 0.75)


@dataclass(frozen=True)
class ScoreSettings:
    """How to score.

    Attributes:
        threshold: least score of an answer.
        definition: "released" (the reference's code) or "paper", see `tally`.
        average_precision: COCO's or LVIS's AP; None: for COCO and LVIS files. Needs pycocotools.
        bootstrap: samples for confidence intervals; 0: none.
        level: of the intervals.
        seed: of the samples.
        progress: shows a bar.
    """

    threshold: float = 0.5
    definition: str = "released"
    average_precision: bool | None = None
    bootstrap: int = 1000
    level: float = 0.95
    seed: int = 0
    progress: bool = False

    def __post_init__(self) -> None:
        if self.definition not in DEFINITIONS:
            raise ValueError(f"definition is {self.definition!r}; expected one of {', '.join(DEFINITIONS)}.")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; expected a number between 0 and 1.")


@dataclass
class Scores:
    """What an evaluation found.

    Attributes:
        metrics: figures by name: of masks under the reference's names, short and in full (`cgF1_eval_segm_...`), of
            boxes as `box_...` and `cgF1_eval_bbox_...`; AP, counting, numbers of pairs.
        intervals: figure → low and high end of its confidence interval.
        domains, phrases: figures by domain and by phrase.
        human: agreement of annotators by protocol, where there are several.
        curves: "cgF1_over_threshold", "precision_recall" by IoU, "calibration"; of masks, or else of boxes.
        settings: how it was scored.
        notes: lines that the user should read.
        counts: kind of problem → how many.
        cases: (index of the pair, local F1, errors) of the judged pairs, for looking at the best and the worst.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    domains: dict[str, dict[str, float]] = field(default_factory=dict)
    phrases: dict[str, dict[str, float]] = field(default_factory=dict)
    human: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    cases: list[tuple[int, float, int]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The metrics at the top, then the rest but for phrases and cases, which have files of their own."""
        return self.metrics | {
            "confidence_intervals": self.intervals,
            "per_domain": self.domains,
            "human_agreement": self.human,
            "problems": self.counts,
            "curves": self.curves,
            "settings": self.settings,
            "notes": self.notes,
        }


def score_results(
    annotated: AnnotatedPairs,
    results: Results,
    settings: ScoreSettings | None = None,
    asked: Sequence[int] | None = None,
    counts: Mapping[int, int] | None = None,
) -> Scores:
    """All figures of `results` against the annotations.

    Args:
        annotated, results: from `load_annotations` and `load_results`.
        settings: default: `ScoreSettings()`.
        asked: indices of the pairs that were asked; default: all.
        counts: index of the pair → number of objects by the model's own counting recipe, where it is known.

    Raises ValueError where no pair can be judged, ImportError where AP is wanted without pycocotools.
    """
    settings = settings or ScoreSettings()
    chosen = list(range(len(annotated))) if asked is None else list(asked)
    judged = [index for index in chosen if annotated.pairs[index].is_exhaustive]
    if not judged:
        raise ValueError(f"{len(chosen)} pairs, none of them exhaustively annotated; there is nothing to judge.")
    scores = Scores(
        settings={**asdict(settings), "annotations": annotated.kind, "annotators": annotated.num_annotators}
    )
    scores.settings.pop("progress")
    _note_problems(scores, annotated, results, len(chosen) - len(judged))
    kinds = _kinds(annotated, results, judged, scores)
    judges = _judges(annotated, results, judged, kinds, settings)
    for iou_type, judge in judges.items():
        _take_figures(scores, judge, iou_type, settings)
    first, indices = next(iter(kinds.items()))  # masks, or boxes where there are no masks
    _take_tables(scores, judges[first], [annotated.pairs[index] for index in indices], indices, settings)
    if annotated.num_annotators > 1:
        some = [annotated.pairs[index] for index in indices]
        scores.human = human_agreement(some, first, settings.definition, seed=settings.seed)
    wanted = settings.average_precision
    if wanted or (wanted is None and annotated.kind != "saco"):
        _take_average_precision(scores, annotated, results, chosen, kinds)
    _take_counting(scores, annotated, results, judged, settings, counts)
    positive = sum(annotated.pairs[index].is_positive for index in judged)
    scores.metrics |= {"num_pairs": float(len(judged)), "num_positive_pairs": float(positive)}
    return scores


def _note_problems(scores: Scores, annotated: AnnotatedPairs, results: Results, num_left_out: int) -> None:
    for problems in (annotated.problems, results.problems):
        scores.notes += problems.lines()
        for kind, number in problems.counts().items():
            scores.counts[kind] = scores.counts.get(kind, 0) + number
    if num_left_out:
        scores.counts["pairs that are not exhaustively annotated, left out"] = num_left_out
        scores.notes.append(f"{num_left_out} pairs are not exhaustively annotated (or have a crowd region): left out")


def _kinds(
    annotated: AnnotatedPairs, results: Results, judged: Sequence[int], scores: Scores
) -> dict[str, Sequence[int]]:
    """What can be compared, masks first, and the pairs of which it can."""
    masked = [i for i in judged if all(target.masks is not None for target in annotated.pairs[i].targets)]
    if not results.has_masks:
        scores.notes.append("the predictions have no masks: only boxes are compared")
    elif not _any_positive(annotated, masked) and _any_positive(annotated, judged):
        scores.notes.append("the annotations have no masks: only boxes are compared")
    else:
        if len(masked) < len(judged):
            scores.counts["pairs without masks, left out of mask figures"] = len(judged) - len(masked)
            scores.notes.append(f"{len(judged) - len(masked)} pairs have objects without masks: not in mask figures")
        return {"segm": masked, "bbox": judged}
    return {"bbox": judged}


def _any_positive(annotated: AnnotatedPairs, indices: Sequence[int]) -> bool:
    return any(annotated.pairs[index].is_positive for index in indices)


def _judges(
    annotated: AnnotatedPairs,
    results: Results,
    judged: Sequence[int],
    kinds: Mapping[str, Sequence[int]],
    settings: ScoreSettings,
) -> dict[str, Judge]:
    """All pairs judged, each kind of comparison by a judge of its own; the first kind has the curves."""
    judges = {
        kind: Judge(kind, settings.threshold, settings.definition, CURVE_THRESHOLDS if place == 0 else ())
        for place, kind in enumerate(kinds)
    }
    members = {kind: set(indices) for kind, indices in kinds.items()}
    with tqdm(total=len(judged), desc="scoring", unit="pair", disable=not settings.progress) as bar:
        for start in range(0, len(judged), _PAIRS_AT_ONCE):
            part = judged[start : start + _PAIRS_AT_ONCE]
            pairs = {index: (results.prediction(index), annotated.pairs[index].targets) for index in part}
            for kind, judge in judges.items():
                judge.add([pairs[index] for index in part if index in members[kind]])
            bar.update(len(part))
    return judges


def _take_figures(scores: Scores, judge: Judge, iou_type: str, settings: ScoreSettings) -> None:
    rows = judge.rows()
    figures = floats(figures_of(rows.sum(0), settings.definition))
    figures |= {"pmF1": figures["positive_micro_F1"]}
    prefix = _PREFIX[iou_type]
    scores.metrics |= {prefix + name: value for name, value in figures.items()}
    scores.metrics |= {f"cgF1_eval_{iou_type}_{name}": value for name, value in figures.items() if name != "pmF1"}
    if settings.bootstrap:
        ends = confidence_intervals(rows, settings.definition, settings.bootstrap, settings.level, settings.seed)
        scores.intervals |= {prefix + name: value for name, value in ends.items()}


def _take_tables(
    scores: Scores, judge: Judge, pairs: Sequence[AnnotatedPair], indices: Sequence[int], settings: ScoreSettings
) -> None:
    rows = judge.rows()
    scores.domains = _by_group(rows, [pair.domain for pair in pairs], settings.definition)
    scores.phrases = _by_group(rows, [pair.key[1] for pair in pairs], settings.definition)
    found, there, true = rows[:, 0], rows[:, 1], rows[:, 8:18].mean(1)
    f1 = np.where(found + there > 0, 2 * true / np.maximum(found + there, 1), 1.0)
    errors = found + there - 2 * rows[:, 8]  # at IoU 0.5
    scores.cases = [(i, float(a), int(b)) for i, a, b in zip(indices, f1, errors, strict=True)]
    answers = judge.answers()
    scores.curves = {
        "of": "masks" if judge.iou_type == "segm" else "boxes",
        "cgF1_over_threshold": judge.over_thresholds(),
        "precision_recall": {str(iou): precision_recall(answers, judge.num_objects(), iou) for iou in _PR_IOUS},
        "calibration": calibration(answers),
    }


def _by_group(rows: np.ndarray, names: Sequence[str], definition: str) -> dict[str, dict[str, float]]:
    """Figures of each group of pairs, by name in alphabetical order."""
    unique, group = np.unique(np.array(names, dtype=object).astype(str), return_inverse=True)
    sums = np.zeros((len(unique), rows.shape[1]))
    np.add.at(sums, group, rows)
    figures = figures_of(sums, definition)
    pairs = np.bincount(group)
    shown = ("cgF1", "positive_micro_F1", "positive_macro_F1", "IL_MCC", "IL_FPR", "precision", "recall")
    return {
        str(name): {
            "num_pairs": float(pairs[at]),
            "num_positive_pairs": float(sums[at, 4] + sums[at, 6]),
            **{key: float(figures[key][at]) for key in shown},
        }
        for at, name in enumerate(unique)
    }


def _take_average_precision(
    scores: Scores, annotated: AnnotatedPairs, results: Results, chosen: Sequence[int], kinds: Mapping[str, Any]
) -> None:
    order = list(chosen)
    if all(isinstance(pair.targets[0].image_id, int) for pair in annotated):  # COCO's order, by which it breaks ties
        order.sort(key=lambda index: annotated.pairs[index].targets[0].image_id)
    for iou_type in kinds:
        usable = [i for i in order if iou_type == "bbox" or annotated.pairs[i].targets[0].masks is not None]
        targets = [annotated.pairs[index].targets[0] for index in usable]
        found: dict[Any, ConceptPrediction] = {annotated.pairs[i].key: results.prediction(i) for i in usable}
        if annotated.kind == "lvis":
            scores.metrics |= lvis_ap(found, targets, annotated.frequencies, iou_type)
        elif annotated.kind == "coco":
            scores.metrics |= coco_ap(found, targets, iou_type)
        else:  # thousands of phrases, most of them once: all objects pooled
            exhaustive = [target for target in targets if target.is_exhaustive]
            scores.metrics |= coco_ap(found, exhaustive, iou_type, per_phrase=False)


def _take_counting(
    scores: Scores,
    annotated: AnnotatedPairs,
    results: Results,
    judged: Sequence[int],
    settings: ScoreSettings,
    counts: Mapping[int, int] | None,
) -> None:
    """Counts of present phrases, of the first annotator's objects: plain, and by the paper's recipe."""
    present = [i for i in judged if annotated.pairs[i].is_positive and not annotated.pairs[i].targets[0].is_crowd.any()]
    if not present:
        return
    there = [annotated.pairs[index].targets[0].num_objects for index in present]
    plain: list[int] = []
    recipe: list[int] = []
    for start in range(0, len(present), _PAIRS_AT_ONCE):
        part = present[start : start + _PAIRS_AT_ONCE]
        predictions = [results.prediction(index) for index in part]
        plain += [len(one.kept(settings.threshold)) for one in predictions]
        if counts is not None:
            recipe += [counts[index] for index in part if index in counts]
        elif results.has_masks:
            recipe += count_many(predictions)
    scores.metrics |= {f"plain_{name}": value for name, value in count_errors(plain, there).items()}
    if len(recipe) == len(there):
        scores.metrics |= count_errors(recipe, there)
        scores.settings["counting"] = "presence in the scores" if counts is None else "presence left out"
