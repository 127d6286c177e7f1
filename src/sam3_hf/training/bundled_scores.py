"""Scores of a model on the sets that the bundled model is judged by, as a Markdown page and JSON.

usage: python -m sam3_hf.training.bundled_scores MODEL [--data FOLDER] [--pictures 200] [--page docs/results.md]

Concept scenes of the val split and of compositions never trained, and the val split of each COCO JSON folder of
`--data` (`FOLDER/NAME/val.json`), each with the phrase and 0 to 4 corrections after it, an exemplar alone, and both.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm
from typing_extensions import Unpack

from ..data import SceneDataset
from ..evaluation import Asking, ConceptMetrics, predict_rounds
from ..files import write_text_whole
from ..modeling import AutoConceptModel
from ..processing import Sam3Processor
from .concept_table import ConceptExamples
from .datasets import load_coco

__all__ = ["PROMPTS", "main", "scores", "val_sets"]

# How a set is asked: arguments of `predict_rounds`.
PROMPTS: dict[str, Asking] = {
    "text": {"interactive": 0},
    "exemplar": {"prompt": "exemplar"},
    "both": {"prompt": "both"},
    "interactive": {"interactive": 4},
}
FIGURES = ("cgF1", "pmF1", "IL_MCC", "IL_FPR", "mask_AP", "count_MAE")
OF_PRESENCE = ("cgF1", "IL_MCC", "IL_FPR")
MAX_ABSENT = 8  # absent phrases asked of a picture


def val_sets(folder: Path | None, pictures: int, image_size: int) -> dict[str, Any]:
    """Examples by the name of the set, at most `pictures` of each."""
    sets: dict[str, Any] = {
        "scenes": SceneDataset(pictures, "val", image_size=image_size),
        "unseen": SceneDataset(pictures, "unseen", image_size=image_size),
    }
    for file in sorted(folder.glob("*/val.json")) if folder else []:
        data = load_coco(file)
        sets[file.parent.name] = ConceptExamples(data.select(range(min(pictures, len(data)))))
    return sets


def scores(model: Any, processor: Sam3Processor, examples: Any, **asking: Unpack[Asking]) -> list[dict[str, float]]:
    """Figures of one set, fractions of 1 but for counts, after each number of corrections."""
    rounds = [ConceptMetrics(average_precision=True) for _ in range(1 + asking.get("interactive", 0))]
    kept = (rounds[0].least_score, rounds[0].max_detections)
    shown = tqdm(examples, unit="picture", leave=False)
    for answers, target in predict_rounds(model, processor, shown, "all", 4, *kept, **asking):
        for metrics, answer in zip(rounds, answers, strict=True):
            metrics.add([(answer, target)])
    return [metrics.compute() for metrics in rounds]


def _line(name: str, prompt: str, figures: Mapping[str, float]) -> str:
    asked_absent = figures["num_pairs"] > figures["num_positive_pairs"]  # without, there is no telling presence
    known = [figure for figure in FIGURES if figure in figures and (asked_absent or figure not in OF_PRESENCE)]
    cells = (f"{figures[figure]:.3f}" if figure in known else "-" for figure in FIGURES)
    return f"| {name} | {prompt} | {' | '.join(cells)} |"


def _page(lines: Sequence[str], command: Sequence[str], pictures: int) -> str:
    return (
        f"""# Scores of the bundled model

Made by one command, which is all that writes this page:

```sh
python -m sam3_hf.training.bundled_scores {shlex.join(command)}
```

At most {pictures} pictures of each set, at most {MAX_ABSENT} absent phrases of a picture, threshold 0.5. `text` is the
phrase alone, with `+ n` after n corrections (each the box of the worst error of the answer before); `exemplar` the box
of one true object, where there is one, so that nothing absent is asked; `both` phrase and box. Fractions of 1, counts
in objects.
[What the figures mean](evaluation.md), [how the model was made](tiny_model.md).

"""
        + "\n".join(lines)
        + "\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Score a model on the sets that the bundled model is judged by.")
    add = parser.add_argument
    add("model")
    add("--data", type=Path, help="folder with facade/, nuclei/, clothing/, coco/ (default: concept scenes alone)")
    add("--pictures", type=int, default=200, help="at most, of each set")
    add("--prompts", nargs="+", choices=PROMPTS, default=["exemplar", "both", "interactive"])
    add("--sets", nargs="+", help="names of the sets (default: all)")
    add("--nms", type=float, help="drop answers whose mask overlaps a better one's by more than this IoU")
    add("--output", type=Path, help="JSON file")
    add("--page", type=Path, help="Markdown file")
    options = parser.parse_args(arguments)
    model = AutoConceptModel.from_pretrained(options.model).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    processor = Sam3Processor(size=model.config.image_size)
    found: dict[str, dict[str, dict[str, float]]] = {}
    lines = [f"| set | prompt | {' | '.join(FIGURES)} |", f"|{'---|' * (2 + len(FIGURES))}"]
    print(*lines, sep="\n", flush=True)
    for name, examples in val_sets(options.data, options.pictures, model.config.image_size).items():
        for prompt in options.prompts if not options.sets or name in options.sets else ():
            asking: Asking = {**PROMPTS[prompt], "max_absent": MAX_ABSENT, "nms_threshold": options.nms}
            for number, figures in enumerate(scores(model, processor, examples, **asking)):
                called = f"text + {number}" if prompt == "interactive" else prompt
                found.setdefault(name, {})[called] = figures
                lines.append(_line(name, called, figures))
                print(lines[-1], flush=True)
    if options.page:
        given = sys.argv[1:] if arguments is None else arguments
        write_text_whole(_page(lines, given, options.pictures), options.page)
    if options.output:
        write_text_whole(json.dumps(found, indent=1), options.output)


if __name__ == "__main__":
    main()
