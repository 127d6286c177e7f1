"""A model on annotated pictures: from `ConceptExample`s to figures, at the pictures' own resolution.

The same path as the pipeline's: one pass of the vision tower for each picture, its phrases as rows, logits resized to
the picture and then thresholded.  So the figures are those of what a user gets.
"""

import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
import torch.distributed
from tqdm.auto import tqdm
from typing_extensions import Unpack

from ..data.examples import ConceptExample
from .evaluator import ConceptMetrics, predictions_of_outputs
from .overlap import box_ious, mask_ious
from .predictions import ConceptPrediction, ConceptTarget, target_of_example

__all__ = [
    "Asking",
    "ExemplarChooser",
    "Exemplars",
    "add_correction",
    "evaluate_model",
    "predict_examples",
    "predict_rounds",
    "true_boxes",
]

PROMPTS = ("text", "exemplar", "both")
_MIN_SIDE_PX = 1.0  # smaller boxes show nothing


class Exemplars(NamedTuple):
    """Example boxes (k, 4) xyxy in pixels and their labels (k,): 1 positive, 0 negative."""

    boxes: np.ndarray
    labels: np.ndarray

    @classmethod
    def none(cls) -> "Exemplars":
        """No exemplar."""
        return cls(np.zeros((0, 4)), np.zeros(0, dtype=np.int64))

    def plus(self, box: np.ndarray, label: int) -> "Exemplars":
        """These and one more."""
        return Exemplars(np.concatenate([self.boxes, box[None]]), np.append(self.labels, label))


ExemplarChooser = Callable[[ConceptTarget, ConceptPrediction | None, Exemplars], Exemplars]
"""From what is there, what was found last (None in the first round) and what was shown so far: what to show next."""

Phrases = str | Sequence[str] | Callable[[ConceptExample], Sequence[str]]


def true_boxes(number: int = 1, seed: int = 0) -> ExemplarChooser:
    """A chooser that shows `number` objects, drawn at random but always the same ones for the same pair and seed."""

    def choose(target: ConceptTarget, found: ConceptPrediction | None, shown: Exemplars) -> Exemplars:
        boxes = _visible(target.boxes[~target.is_crowd], target.size)
        order = np.random.default_rng([seed, _stable_number(target)]).permutation(len(boxes))[:number]
        return Exemplars(boxes[order], np.ones(len(order), dtype=np.int64))

    return choose


def add_correction(target: ConceptTarget, found: ConceptPrediction | None, shown: Exemplars) -> Exemplars:
    """A chooser that corrects the worst error: the largest missed object, else the surest false one, as a negative.

    An error is an object or answer (score >= 0.5) without a counterpart of IoU >= 0.5. Nothing is added where there is
    none.
    """
    if found is None:
        return shown
    kept, real = found.kept(0.5), np.flatnonzero(~target.is_crowd)
    if found.masks is None or target.masks is None:
        ious = box_ious(found.boxes[kept], target.boxes[real])
    else:
        ious = mask_ious([found.masks[i] for i in kept], [target.masks[j] for j in real])
    good = ious >= 0.5
    missed = _visible(target.boxes[real[~good.any(0)]], target.size)
    if len(missed):
        sides = missed[:, 2:] - missed[:, :2]
        return shown.plus(missed[sides.prod(1).argmax()], 1)
    wrong = kept[~good.any(1)]
    wrong_boxes = _visible(found.boxes[wrong[np.argsort(-found.scores[wrong], kind="stable")]], target.size)
    return shown.plus(wrong_boxes[0], 0) if len(wrong_boxes) else shown


class Asking(TypedDict, total=False):
    """How pairs are asked: the keyword arguments of `evaluate_model`, `predict_examples` and `predict_rounds`.

    Attributes:
        prompt: "text" (the default); "both": text and boxes of `num_exemplars` true objects (text alone where the
            phrase is absent); "exemplar": boxes alone, so only present phrases are asked.
        num_exemplars: 1 unless given.
        interactive: number of corrections shown one after the other, on top of `prompt`; see `add_correction`.
        choose: makes the corrections in place of `add_correction`.
        max_absent: at most that many absent phrases of each picture, drawn with `seed`; None: all.
        seed: of absent phrases and exemplars.
        rows_at_once: picture-phrase pairs that run together, 8; bounds memory, does not change results.
        nms_threshold: drop answers whose mask overlaps a better one's of the same phrase by more than this IoU.
    """

    prompt: str
    num_exemplars: int
    interactive: int
    choose: ExemplarChooser | None
    max_absent: int | None
    seed: int
    rows_at_once: int
    nms_threshold: float | None


def evaluate_model(
    model: Any,
    processor: Any,
    examples: Iterable[ConceptExample],
    phrases: Phrases = "all",
    batch_size: int = 4,
    threshold: float = 0.5,
    progress: bool = True,
    *,
    metrics: ConceptMetrics | None = None,
    detailed: bool = False,
    distributed: bool = False,
    **asking: Unpack[Asking],
) -> dict[str, float]:
    """The figures of `ConceptMetrics.compute` for a model on annotated pictures.

    Args:
        model: `Sam3Detector` or `Sam3Model`, on any device and in any dtype; its mode (train, eval) is left as it was.
        processor: `Sam3Processor` at the model's image size.
        examples: pictures with objects; read once, `batch_size` at a time.
        phrases: "all" that are known to be present or absent in a picture, only the "present" ones, a list (of which
            each picture is asked those it knows), or a function from example to phrases.
        threshold: least score of an answer.
        metrics: to be filled and kept, for its predictions or other settings; it overrides `threshold`.
        detailed: all figures that the reference's evaluator prints.
        distributed: every process of `torch.distributed` calls this with the same examples and does its share.
        asking: see `Asking`.
    """
    metrics = ConceptMetrics(threshold) if metrics is None else metrics
    total = len(examples) if isinstance(examples, Sized) else None
    if distributed and torch.distributed.is_initialized():
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        total = None if total is None else len(range(rank, total, world))
        examples, progress = islice(examples, rank, None, world), progress and rank == 0
    shown = tqdm(examples, total=total, desc="evaluating", unit="picture", disable=not progress)
    kept = (metrics.least_score, metrics.max_detections)
    for pair in predict_examples(model, processor, shown, phrases, batch_size, *kept, **asking):
        metrics.add([pair])
    if distributed:
        metrics.gather()
    return metrics.compute(detailed)


def predict_examples(
    model: Any,
    processor: Any,
    examples: Iterable[ConceptExample],
    phrases: Phrases = "all",
    batch_size: int = 4,
    min_score: float = 0.01,
    max_detections: int = 100,
    **asking: Unpack[Asking],
) -> Iterator[tuple[ConceptPrediction, ConceptTarget]]:
    """Prediction and target of each picture-phrase pair, in order; arguments as in `evaluate_model`."""
    rounds = predict_rounds(model, processor, examples, phrases, batch_size, min_score, max_detections, **asking)
    return ((answers[-1], target) for answers, target in rounds)


def predict_rounds(
    model: Any,
    processor: Any,
    examples: Iterable[ConceptExample],
    phrases: Phrases = "all",
    batch_size: int = 4,
    min_score: float = 0.01,
    max_detections: int = 100,
    **asking: Unpack[Asking],
) -> Iterator[tuple[list[ConceptPrediction], ConceptTarget]]:
    """As `predict_examples`, with the predictions after 0, 1, ... `interactive` corrections of each pair."""
    prompt, seed = asking.get("prompt", "text"), asking.get("seed", 0)
    if prompt not in PROMPTS:
        raise ValueError(f"prompt is {prompt!r}; expected one of {', '.join(PROMPTS)}.")
    first = None if prompt == "text" else true_boxes(asking.get("num_exemplars", 1), seed)
    choosers = [first, *[asking.get("choose") or add_correction] * asking.get("interactive", 0)]
    at_once = asking.get("rows_at_once", 8)
    kept = {"min_score": min_score, "max_detections": max_detections, "nms_threshold": asking.get("nms_threshold")}
    stream = iter(examples)
    was_training = model.training
    model.eval()
    try:
        while group := list(islice(stream, batch_size)):
            targets = [
                (index, target_of_example(example, phrase))
                for index, example in enumerate(group)
                for phrase in _phrases(example, phrases, prompt, asking.get("max_absent"), seed)
            ]
            if prompt == "exemplar" and first is not None:  # a picture may show no object large enough
                targets = [row for row in targets if len(first(row[1], None, Exemplars.none()).boxes)]
            if targets:
                found = _Asker(model, processor, group, prompt != "exemplar", kept)
                for start in range(0, len(targets), at_once):
                    yield from found.ask(targets[start : start + at_once], choosers)
    finally:
        model.train(was_training)


class _Asker:
    """The features of a group of pictures, and the rounds of questions about them."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        group: Sequence[ConceptExample],
        with_text: bool,
        kept: Mapping[str, Any],
    ) -> None:
        self.model, self.processor, self.with_text = model, processor, with_text
        self.kept = kept  # arguments of `predictions_of_outputs`
        inputs = processor(images=[example.image for example in group])
        for example, size in zip(group, inputs["original_sizes"].tolist(), strict=True):
            if tuple(size) != tuple(example.size):
                raise ValueError(
                    f"picture {example.image_id!r} is {size[0]} x {size[1]} (height x width), but its annotations are "
                    f"for {example.size[0]} x {example.size[1]}; annotate the upright picture."
                )
        with torch.inference_mode():
            self.vision = model.get_vision_features(inputs["pixel_values"].to(model.device, model.dtype))

    def ask(
        self, rows: Sequence[tuple[int, ConceptTarget]], choosers: Sequence[ExemplarChooser | None]
    ) -> list[tuple[list[ConceptPrediction], ConceptTarget]]:
        """The answers of each round; each chooser begins one."""
        targets = [target for _, target in rows]
        shown = [Exemplars.none() for _ in rows]
        rounds: list[list[ConceptPrediction]] = []
        for chooser in choosers:
            before, found = shown, rounds[-1] if rounds else [None] * len(rows)
            if chooser is not None:
                shown = [chooser(*state) for state in zip(targets, found, shown, strict=True)]
            more = any(len(new.boxes) != len(old.boxes) for new, old in zip(shown, before, strict=True))
            rounds.append(self._answers(rows, shown) if more or not rounds else rounds[-1])
        return [(list(answers), target) for *answers, target in zip(*rounds, targets, strict=True)]

    @torch.inference_mode()
    def _answers(
        self, rows: Sequence[tuple[int, ConceptTarget]], shown: Sequence[Exemplars]
    ) -> list[ConceptPrediction]:
        targets = [target for _, target in rows]
        prompts: dict[str, Any] = {"text": [target.phrase if self.with_text else None for target in targets]}
        if any(len(one.boxes) for one in shown):
            prompts["input_boxes"] = [one.boxes.tolist() or None for one in shown]
            prompts["input_boxes_labels"] = [one.labels.tolist() or None for one in shown]
        inputs = self.processor(**prompts, original_sizes=[target.size for target in targets], prompt_kind="exemplars")
        inputs.pop("original_sizes")
        inputs["image_ids"] = torch.tensor([index for index, _ in rows])
        inputs = {name: value.to(self.model.device) for name, value in inputs.items()}
        outputs = self.model(vision_embeds=self.vision, **inputs)
        return predictions_of_outputs(outputs, targets, **self.kept)


def _phrases(
    example: ConceptExample,
    wanted: Phrases,
    prompt: str,
    max_absent: int | None,
    seed: int,
) -> list[str]:
    """The phrases to ask of one picture, present ones first."""
    present, absent = example.present(), example.absent()
    if callable(wanted):
        wanted = list(wanted(example))
    elif wanted == "present":
        absent = []
    elif isinstance(wanted, str) and wanted != "all":
        raise ValueError(f"phrases is {wanted!r}; expected 'all', 'present', a list of phrases or a function.")
    if not isinstance(wanted, str):
        chosen = set(wanted)
        present, absent = ([phrase for phrase in some if phrase in chosen] for some in (present, absent))
    if max_absent is not None and len(absent) > max_absent:
        number = zlib.crc32(str(example.image_id).encode())
        absent = random.Random(f"{seed} {number}").sample(absent, max_absent)
    return present if prompt == "exemplar" else present + absent


def _visible(boxes_xyxy: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The boxes clipped to the picture, without those that show nothing."""
    height, width = size
    clipped = np.clip(boxes_xyxy, 0, [width, height, width, height])
    return clipped[(clipped[:, 2:] - clipped[:, :2] >= _MIN_SIDE_PX).all(1)]


def _stable_number(target: ConceptTarget) -> int:
    """A number of the pair that is the same in every run, which `hash` is not."""
    return zlib.crc32(f"{target.image_id}\n{target.phrase}".encode())
