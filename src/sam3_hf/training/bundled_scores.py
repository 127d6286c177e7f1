"""Scores of a model on the sets that the bundled model is judged by, as a Markdown table and JSON.

usage: python -m sam3_hf.training.bundled_scores MODEL [--data FOLDER] [--pictures 200] [--output scores.json]

Concept scenes of the val split and of compositions never trained, and the val split of each COCO JSON folder of
`--data` (`FOLDER/NAME/val.json`), each with the phrase alone, an exemplar alone, both, and corrections.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..data import SceneDataset
from ..evaluation import ConceptMetrics, evaluate_model
from ..files import write_text_whole
from ..modeling import AutoConceptModel
from ..processing import Sam3Processor
from .datasets import load_coco

__all__ = ["PROMPTS", "main", "scores", "val_sets"]

# How a set is asked: arguments of `evaluate_model`.
PROMPTS: dict[str, dict[str, Any]] = {
    "text": {},
    "exemplar": {"prompt": "exemplar"},
    "both": {"prompt": "both"},
    "1 correction": {"interactive": 1},
    "3 corrections": {"interactive": 3},
}
FIGURES = ("cgF1", "pmF1", "IL_MCC", "IL_FPR", "mask_AP", "count_MAE")
MAX_ABSENT = 8  # absent phrases asked of a picture


def val_sets(folder: Path | None, pictures: int, image_size: int) -> dict[str, Any]:
    """Examples by the name of the set, at most `pictures` of each."""
    sets: dict[str, Any] = {
        "scenes": SceneDataset(pictures, "val", image_size=image_size),
        "unseen": SceneDataset(pictures, "unseen", image_size=image_size),
    }
    for file in sorted(folder.glob("*/val.json")) if folder else []:
        data = load_coco(file)
        sets[file.parent.name] = data.select(range(min(pictures, len(data))))
    return sets


def scores(model: Any, processor: Sam3Processor, examples: Any, **asked: Any) -> dict[str, float]:
    """Figures of one set, fractions of 1 but for counts."""
    metrics = ConceptMetrics(average_precision=True)
    return evaluate_model(model, processor, examples, metrics=metrics, max_absent=MAX_ABSENT, **asked)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Score a model on the sets that the bundled model is judged by.")
    add = parser.add_argument
    add("model")
    add("--data", type=Path, help="folder with facade/, nuclei/, clothing/, coco/ (default: concept scenes alone)")
    add("--pictures", type=int, default=200, help="at most, of each set")
    add("--prompts", nargs="+", choices=PROMPTS, default=list(PROMPTS))
    add("--sets", nargs="+", help="names of the sets (default: all)")
    add("--nms", type=float, help="drop answers whose mask overlaps a better one's by more than this IoU")
    add("--output", type=Path)
    options = parser.parse_args(arguments)
    model = AutoConceptModel.from_pretrained(options.model).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    processor = Sam3Processor(size=model.config.image_size)
    found: dict[str, dict[str, dict[str, float]]] = {}
    print(f"| set | prompt | {' | '.join(FIGURES)} |\n|{'---|' * (2 + len(FIGURES))}", flush=True)
    for name, examples in val_sets(options.data, options.pictures, model.config.image_size).items():
        if options.sets and name not in options.sets:
            continue
        for prompt in options.prompts:
            figures = found.setdefault(name, {})[prompt] = scores(
                model, processor, examples, nms_threshold=options.nms, **PROMPTS[prompt]
            )
            cells = " | ".join(f"{figures[figure]:.3f}" if figure in figures else "-" for figure in FIGURES)
            print(f"| {name} | {prompt} | {cells} |", flush=True)
    if options.output:
        write_text_whole(json.dumps(found, indent=1), options.output)


if __name__ == "__main__":
    main()
