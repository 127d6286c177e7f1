"""Names that the current model wrongly accepts: the hardest negatives, found by asking it."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.examples import ConceptExample
from ..processing import Sam3Processor
from ..processing.postprocess import object_scores
from .collator import ConceptCollator, ConceptSample
from .concept_table import ConceptExamples, is_arrow_dataset
from .pictures import Picture, open_picture
from .sampling import ConceptRow, MinedNegatives

__all__ = ["mine_negatives"]


@torch.inference_mode()
def mine_negatives(
    model: Any,
    processor: Sam3Processor,
    examples: Sequence[ConceptExample] | Any,
    *,
    threshold: float = 0.5,
    store: MinedNegatives | None = None,
    max_phrases: int | None = 64,
    rows_at_once: int = 16,
    seed: int = 0,
) -> dict[str, list[str]]:
    """For each picture, by its id, the absent phrases for which the model finds an object, the surest first.

    Every picture is encoded once and asked `rows_at_once` absent phrases at a time, at most `max_phrases` of them,
    drawn at random by `seed` (give the epoch, so that in time all are asked). A picture that was asked and accepted
    none is in the result with an empty list: what was mined for it before is forgotten. The model keeps its mode, train
    or eval.

    Args:
        model: `Sam3Detector` or `Sam3Model`; a wrapped one must be unwrapped before.
        processor: prepares the pictures.
        examples: `ConceptExample`s or the `datasets.Dataset` of a loader; of several processes each may give its share.
        threshold: score from which a phrase counts as accepted.
        store: receives the result and, where it has a path, is saved.
    """
    if is_arrow_dataset(examples):
        examples = ConceptExamples(examples)
    collate = ConceptCollator(processor)
    was_training = model.training
    model.eval()
    mined: dict[str, list[str]] = {}
    try:
        for number in range(len(examples)):
            example = examples[number]
            absent = list(dict.fromkeys(example.absent()))
            order = np.random.default_rng((seed, number)).permutation(len(absent))[:max_phrases]
            phrases = [absent[i] for i in order]
            if not phrases:
                continue
            try:
                picture = open_picture(example)
            except (ValueError, OSError) as error:
                warnings.warn(f"no negatives are mined in example {number}: {error}", stacklevel=2)
                continue
            scores = _best_scores(model, collate, picture, phrases, rows_at_once)
            best_first = scores.argsort(descending=True, stable=True).tolist()
            mined[str(example.image_id)] = [phrases[i] for i in best_first if scores[i] >= threshold]
    finally:
        model.train(was_training)
    if store is not None:
        store.update(mined)
        if store.path is not None:
            store.save()
    return mined


def _best_scores(
    model: Any, collate: ConceptCollator, picture: Picture, phrases: Sequence[str], rows_at_once: int
) -> Tensor:
    """The highest object score (num_phrases,) of each phrase, on the CPU."""
    vision = None
    scores = []
    for first in range(0, len(phrases), rows_at_once):
        rows = [ConceptRow(phrase, phrase, ()) for phrase in phrases[first : first + rows_at_once]]
        batch = collate([ConceptSample(picture, rows)])
        if vision is None:
            vision = model.get_vision_features(batch["pixel_values"].to(model.device, model.dtype))
        inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask", "image_ids")}
        scores.append(object_scores(model(vision_embeds=vision, **inputs)).amax(1).cpu())
    return torch.cat(scores)
