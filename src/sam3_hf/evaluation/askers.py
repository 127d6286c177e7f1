"""Who can be asked about pictures: SAM 3 with any prompt, or a zero-shot detector, both in the same way."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import transformers

from ..data.examples import ConceptExample
from ..hub import local_directory
from ..modeling import AutoConceptModel
from ..processing import Sam3Processor
from .predictions import ConceptPrediction, target_of_example
from .runner import Exemplars, predict_examples, true_boxes
from .zero_shot import DETECTORS, MasksOfBoxes, ZeroShotDetector

__all__ = ["Asker", "ModelSpec", "Prompts", "Sam3Asker", "is_detector", "open_asker"]

Phrases = Callable[[ConceptExample], Sequence[str]]


@dataclass(frozen=True)
class Prompts:
    """What is shown: "text", "exemplar", "both", or text and then up to `rounds` corrections."""

    kind: str = "text"
    rounds: int = 0

    @classmethod
    def parse(cls, text: str) -> "Prompts":
        """From text, exemplar, both or interactive:N; ValueError for all else."""
        if text in ("text", "exemplar", "both"):
            return cls(text)
        found = re.fullmatch(r"interactive:(\d+)", text)
        if found is None:
            raise ValueError(
                f"prompts is {text!r}; expected text, exemplar, both or interactive:N, e.g. interactive:3."
            )
        return cls("text", int(found[1]))


@dataclass(frozen=True)
class ModelSpec:
    """A model and how it is asked; `phrases_at_once` is for zero-shot detectors, `nms` (an IoU) for SAM 3.

    `masks` is a SAM 3 model that draws masks of a detector's boxes and, in videos, follows them.
    """

    model: str
    prompts: str = "text"
    phrases_at_once: int = 1
    batch_size: int = 1
    dtype: str = "auto"
    seed: int = 0
    nms: float | None = None
    masks: str | None = None


class Asker(Protocol):
    """A model that can be asked."""

    def predict(self, examples: Iterable[ConceptExample], phrases: Phrases) -> Iterator[ConceptPrediction]:
        """The answers to the phrases of each picture, in order."""

    def can_ask(self, example: ConceptExample, phrase: str) -> bool:
        """Whether this pair can be asked: an exemplar alone needs an object to show."""


class Sam3Asker:
    """SAM 3, asked as `evaluate_model` does."""

    def __init__(self, spec: ModelSpec, device: Any) -> None:
        self.prompts = Prompts.parse(spec.prompts)
        self.batch_size, self.seed, self.nms = spec.batch_size, spec.seed, spec.nms
        self.model = AutoConceptModel.from_pretrained(spec.model, dtype=spec.dtype).eval().to(device)
        self.processor = Sam3Processor(size=self.model.config.image_size)

    def predict(self, examples: Iterable[ConceptExample], phrases: Phrases) -> Iterator[ConceptPrediction]:
        """The answers to the phrases of each picture, in order."""
        pairs = predict_examples(
            self.model,
            self.processor,
            examples,
            phrases,
            self.batch_size,
            prompt=self.prompts.kind,
            interactive=self.prompts.rounds,
            seed=self.seed,
            nms_threshold=self.nms,
        )
        for prediction, _ in pairs:
            yield prediction

    def can_ask(self, example: ConceptExample, phrase: str) -> bool:
        """Whether there is an object to show, where an exemplar is all that is shown."""
        if self.prompts.kind != "exemplar":
            return True
        shown = true_boxes(1, self.seed)(target_of_example(example, phrase), None, Exemplars.none())
        return len(shown.boxes) > 0


class DetectorAsker:
    """A zero-shot detector; it knows words alone."""

    def __init__(self, spec: ModelSpec, device: Any) -> None:
        if Prompts.parse(spec.prompts) != Prompts("text"):
            raise ValueError(f"{spec.model} is a zero-shot detector: it takes --prompts text, not {spec.prompts!r}.")
        if spec.nms is not None:
            raise ValueError(f"{spec.model} is a zero-shot detector: it finds boxes, and --nms compares masks.")
        masks = None if spec.masks is None else MasksOfBoxes(spec.masks, device, spec.dtype)
        self.detector = ZeroShotDetector(spec.model, device, spec.dtype, spec.phrases_at_once, masks=masks)

    def predict(self, examples: Iterable[ConceptExample], phrases: Phrases) -> Iterator[ConceptPrediction]:
        """The answers to the phrases of each picture, in order."""
        return self.detector.predict(examples, phrases)

    def can_ask(self, example: ConceptExample, phrase: str) -> bool:
        """Always."""
        return True


def open_asker(spec: ModelSpec, device: Any) -> Asker:
    """The model of `spec` on `device`, of whichever kind its config.json says."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return DetectorAsker(spec, device) if is_detector(spec) else Sam3Asker(spec, device)


def is_detector(spec: ModelSpec) -> bool:
    """Whether the model is a zero-shot detector, by its config.json; ValueError for settings that it cannot have."""
    config = local_directory(spec.model, patterns=["config.json"]) / "config.json"
    kind = json.loads(config.read_text(encoding="utf-8")).get("model_type") if config.is_file() else None
    if kind not in DETECTORS and spec.masks is not None:
        raise ValueError(f"{spec.model} is no zero-shot detector and draws its masks itself; leave out --masks.")
    return kind in DETECTORS
