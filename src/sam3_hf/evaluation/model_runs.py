"""A model on a set of annotated pictures: asked pair by pair into a journal, by one process or several, then scored.

Picture i belongs to process i modulo their number, whatever is done already; so processes never ask the same pair, and
a run that goes on with another number of processes leaves none out.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm import tqdm

from ..data.examples import ConceptExample
from .annotations import AnnotatedPairs
from .askers import Asker, ModelSpec, open_asker
from .coco_format import save_json
from .files import FILES, write_evaluation
from .journal import PredictionJournal
from .pictures import AskedPicture, PictureSource, asked_pictures, open_picture
from .predictions import ConceptPrediction
from .problems import Problems
from .results import load_results
from .scoring import Scores, ScoreSettings, score_results

__all__ = ["PREDICTIONS", "ask_model", "end_processes", "processes", "remove_evaluation", "run_model"]

PREDICTIONS = "predictions.json"
_UNREADABLE = (OSError, ValueError, TypeError, MemoryError)


def processes(device: str | None = None) -> PartialState:
    """The processes that run together: one, or those that `accelerate launch` has started."""
    # A process may have far more to do than another, and all wait for the last.
    return PartialState(cpu=device == "cpu", timeout=timedelta(days=7))


def run_model(
    spec: ModelSpec,
    annotated: AnnotatedPairs,
    images: PictureSource,
    output: Path,
    settings: ScoreSettings,
    state: PartialState,
    device: Any,
    lenient: bool = False,
    about: Mapping[str, Any] | None = None,
) -> tuple[Scores, list[str]] | None:
    """The scores of a model, and the titles of plots that could not be drawn; None in all processes but the first.

    Writes `predictions.json` and the files of `write_evaluation` into `output`. Called again after a kill it goes on.

    Raises ValueError where pictures are missing or cannot be read, unless `lenient`: then their pairs are left out.
    """
    header = {"spec": vars(spec), "pairs": len(annotated), "annotations": annotated.problems.source}
    with PredictionJournal(output, header, state.process_index) as journal:
        state.wait_for_everyone()  # all have seen the journal's header before anyone goes on
        ask_model(spec, annotated, images, journal, state, device, lenient)
        state.wait_for_everyone()
        if not state.is_main_process:
            return None
        known = journal.read()
    scores, missing = _score(annotated, known, output, settings, images, lenient, about)
    PredictionJournal.remove(output)
    return scores, missing


def ask_model(
    spec: ModelSpec,
    annotated: AnnotatedPairs,
    images: PictureSource,
    journal: PredictionJournal,
    state: PartialState,
    device: Any,
    lenient: bool,
) -> None:
    """Puts this process's share of the pairs into the journal, but for those that are there."""
    problems = Problems("the pictures", lenient)
    pictures = asked_pictures(annotated, images, problems)
    problems.settle()
    done = {index for index, record in journal.read().items() if "failed" not in record}
    mine = [picture for picture in pictures[state.process_index :: state.num_processes]]
    todo = [picture for picture in mine if not done.issuperset(picture.pairs.values())]
    if not todo:
        return
    asker = open_asker(spec, device)
    total = sum(len(picture.pairs) for picture in mine)
    at_start = sum(index in done for picture in mine for index in picture.pairs.values())
    hidden = not (state.is_main_process and sys.stderr.isatty())
    with tqdm(total=total, initial=at_start, desc="asking", unit="pair", disable=hidden) as bar:
        places = {picture.number: picture.pairs for picture in todo}

        def remaining(example: ConceptExample) -> list[str]:
            pairs = places[int(example.image_id)]
            return [phrase for phrase, at in pairs.items() if at not in done and asker.can_ask(example, phrase)]

        for prediction in asker.predict(_opened(todo, annotated, images, journal, asker, done, lenient), remaining):
            index = places[int(prediction.image_id)][prediction.phrase]
            journal.append(
                index, results=_entries(prediction, annotated.pairs[index].result_id), count=prediction.count
            )
            bar.update()


def _opened(
    pictures: Sequence[AskedPicture],
    annotated: AnnotatedPairs,
    images: PictureSource,
    journal: PredictionJournal,
    asker: Asker,
    done: set[int],
    lenient: bool,
) -> Iterator[ConceptExample]:
    """The pictures that can be read, in order; the rest, and pairs that cannot be asked, go to the journal."""
    for picture in pictures:
        try:
            example = open_picture(picture, annotated, images)
        except _UNREADABLE as error:
            if not lenient:
                raise ValueError(f"{error} Mend it, or give --lenient to leave such pictures out.") from error
            for index in picture.pairs.values():
                journal.append(index, failed=f"{picture.name}: {error}")
            continue
        for phrase, index in picture.pairs.items():
            if index not in done and not asker.can_ask(example, phrase):
                journal.append(index, asked=False)
        yield example


def _entries(prediction: ConceptPrediction, result_id: tuple[Any, Any]) -> list[dict[str, Any]]:
    """COCO results of one pair."""
    image_id, category = result_id
    entries = []
    for index, score in enumerate(prediction.scores):
        x0, y0, x1, y1 = prediction.boxes[index].tolist()
        entry: dict[str, Any] = {
            "image_id": image_id,
            "category_id": 1 if category is None else category,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "score": float(score),
        }
        if prediction.masks is not None:
            entry["segmentation"] = prediction.masks[index]
        entries.append(entry)
    return entries


def _score(
    annotated: AnnotatedPairs,
    known: Mapping[int, Mapping[str, Any]],
    output: Path,
    settings: ScoreSettings,
    images: PictureSource,
    lenient: bool,
    about: Mapping[str, Any] | None,
) -> tuple[Scores, list[str]]:
    gaps = [index for index in range(len(annotated)) if index not in known]
    if gaps:
        raise ValueError(
            f"{len(gaps)} of {len(annotated)} pairs have no answer, the first {annotated.pairs[gaps[0]].key}."
        )
    asked = [index for index in range(len(annotated)) if "results" in known[index]]
    failed = sorted({str(record["failed"]) for record in known.values() if "failed" in record})
    entries = [entry for index in asked for entry in known[index]["results"]]
    save_json(entries, output / PREDICTIONS)
    results = load_results(entries, annotated, lenient)
    results.problems.source = PREDICTIONS
    results.problems.remarks.clear()  # that nothing was found in a pair is the model's answer here
    counts = {index: known[index]["count"] for index in asked if known[index].get("count") is not None}
    scores = score_results(annotated, results, settings, asked, counts or None)
    for reason, number in (
        ("could not be read", len(failed)),
        ("could not be asked: no object to show", _unasked(known)),
    ):
        if number:
            scores.counts[f"left out: {reason}"] = number
    scores.notes += [f"left out: {reason}" for reason in failed]
    if _unasked(known):
        scores.notes.append(f"{_unasked(known)} pairs have no object to show as an exemplar: left out")
    return scores, write_evaluation(scores, output, annotated, results, images, about)


def _unasked(known: Mapping[int, Mapping[str, Any]]) -> int:
    return sum(record.get("asked") is False for record in known.values())


def remove_evaluation(output: Path) -> None:
    """Deletes the files of an earlier evaluation and its journal."""
    for name in (*FILES, PREDICTIONS):
        (output / name).unlink(missing_ok=True)
    PredictionJournal.remove(output)


def end_processes() -> None:
    """Leaves the group of processes, if there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
