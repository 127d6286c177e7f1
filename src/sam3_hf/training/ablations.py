"""The paper's ablations at small scale: equal short budgets from one start, several seeds, a Markdown table.

usage: python -m sam3_hf.training.ablations OUTPUT --init MODEL [--steps 300] [--seeds 0 1] [--pictures 40]

Each run goes on from MODEL for the same number of steps on the same concept scenes, with one thing changed; what it
scores on scenes that it has not seen is added to OUTPUT/results.jsonl, so a stopped command goes on where it was.
The run with nothing changed is also asked with 1 and 3 exemplar boxes beside the phrase.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..data import SceneDataset
from ..evaluation import evaluate_model
from ..modeling import Sam3Detector, Sam3Model
from ..modeling.layers import multiplies_fast
from ..processing import Sam3Processor
from .bundled_data import NUM_SCENES, PICTURES_AN_EPOCH, Mixture, batches
from .bundled_run import muon_and_adam, rate
from .collator import ConceptCollator, ConceptDataset
from .sampling import ConceptSampler

__all__ = ["CONDITIONS", "Condition", "main", "train_condition"]

FIGURES = ("cgF1", "pmF1", "IL_MCC", "IL_FPR")


@dataclass(frozen=True)
class Condition:
    """What a run does differently.

    Attributes:
        presence: with the presence token.
        negatives: random and hard absent phrases of a picture, beside 2 that are there.
        loss: changes of the loss configuration.
    """

    presence: bool = True
    negatives: tuple[int, int] = (1, 1)
    loss: dict[str, Any] = field(default_factory=dict)


# The number of absent phrases is the same but for "many", which cost time; all runs take the same number of steps.
CONDITIONS = {
    "as it is (1 random, 1 hard negative)": Condition(),
    "no presence token": Condition(presence=False),
    "2 random, no hard negatives": Condition(negatives=(2, 0)),
    "1 random, 4 hard negatives": Condition(negatives=(1, 4)),
    "no DAC": Condition(loss={"dac": False, "denoise": 0}),
}
EXEMPLARS = (1, 3)


def train_condition(condition: Condition, seed: int, options: argparse.Namespace) -> Sam3Detector:
    """The detector of `options.init`, trained further under a condition."""
    torch.manual_seed(seed)
    whole = Sam3Model.from_pretrained(options.init)
    detector, size = whole.detector_model, whole.config.image_size
    detector.config.detr_decoder_config.presence = condition.presence
    detector.config.loss_config = dict(detector.config.loss_config or {}) | condition.loss
    detector.set_attn_implementation("eager")
    random, hard = condition.negatives
    sampler = ConceptSampler(positives=2, random_negatives=random, hard_negatives=hard)
    scenes = SceneDataset(NUM_SCENES, "train", image_size=size, max_objects=options.max_objects)
    data = Mixture({"scenes": ConceptDataset(scenes, sampler, None, seed=seed)}, {"scenes": 1}, PICTURES_AN_EPOCH, seed)
    stream = batches(data, ConceptCollator(Sam3Processor(size=size)), options.batch_size, 0, options.workers)
    optimizers = muon_and_adam(detector, options.learning_rate, options.matrix_rate)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    peaks = [group["lr"] for group in groups]
    detector.train()
    for step in tqdm(range(options.steps), desc=f"seed {seed}", unit="step"):
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * rate(step / options.steps, step, 0.02, warmup=max(options.steps // 10, 1))
        with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_fast(torch.bfloat16)):
            detector(**next(stream)).loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 5.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return detector.eval()


def _score(detector: Sam3Detector, options: argparse.Namespace, **asked: Any) -> dict[str, float]:
    size = detector.config.image_size
    scenes = SceneDataset(options.pictures, "val", image_size=size, max_objects=options.max_objects)
    found = evaluate_model(
        detector, Sam3Processor(size=size), scenes, threshold=options.threshold, max_absent=8, progress=False, **asked
    )
    return {figure: found[figure] for figure in FIGURES}


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: the mean of each figure over seeds, and in brackets how far the seeds lie apart."""
    rows = defaultdict[str, list[dict[str, Any]]](list)
    for result in results:
        rows[result["condition"]].append(result)
    lines = [f"| condition | seeds | {' | '.join(FIGURES)} |", f"|{'---|' * (2 + len(FIGURES))}"]
    for name, runs in rows.items():
        values = {figure: [run[figure] for run in runs] for figure in FIGURES}
        cells = [f"{np.mean(found):.3f} ({np.ptp(found):.3f})" for found in values.values()]
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="The paper's ablations at small scale.")
    add = parser.add_argument
    add("output", type=Path)
    add("--init", required=True, help="model that all runs start from")
    add("--steps", type=int, default=300)
    add("--seeds", type=int, nargs="+", default=[0, 1])
    add("--pictures", type=int, default=40, help="that are scored")
    add("--threshold", type=float, default=0.5)
    add("--max-objects", type=int, default=8, help="in a scene")
    add("--batch-size", type=int, default=4)
    add("--learning-rate", type=float, default=2e-4)
    add("--matrix-rate", type=float, default=6e-4)
    add("--workers", type=int, default=0)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "results.jsonl"
    results = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
    done = {(result["condition"], result["seed"]) for result in results}
    for seed in options.seeds:
        for name, condition in CONDITIONS.items():
            if (name, seed) in done:
                continue
            detector = train_condition(condition, seed, options)
            found = [{"condition": name, "seed": seed} | _score(detector, options)]
            if condition == Condition():
                for count in EXEMPLARS:
                    shown = _score(detector, options, prompt="both", num_exemplars=count)
                    found.append({"condition": f"as it is, asked with {count} exemplar(s)", "seed": seed} | shown)
            with file.open("a", encoding="utf-8") as log:  # what marks a run as done comes last
                log.write("".join(json.dumps(result) + "\n" for result in reversed(found)))
            results += found
    print(table(results))


if __name__ == "__main__":
    main()
