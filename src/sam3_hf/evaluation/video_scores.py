"""Scores of a model that follows objects, as Markdown tables and JSON, with the rules of tracking switched off in turn.

usage: python -m sam3_hf.evaluation.video_scores MODEL [--clips 20] [--rules all] [--videos FOLDER] [--output DIR]

Concept clips are asked for phrases; `--rules` names rules to do without, one at a time.  `--videos FOLDER` (with
`videos.json` in YouTube-VIS layout and `frames/`) follows each object from its first mask.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..data import concept_clip
from ..modeling import Sam3Model
from ..processing import Sam3Processor
from ..video import VideoRules
from .coco_format import save_json
from .j_and_f import DAVIS_NAMES
from .video_runner import evaluate_masklets, evaluate_video_model

__all__ = ["RULES_OFF", "main"]

# What switches a rule of tracking off: fields of `VideoRules`.
RULES_OFF: dict[str, dict[str, Any]] = {
    "hot start": {"hot_start_delay": 0, "hot_start_unmatched": 0, "hot_start_duplicate": 0},
    "new prompts": {"recondition_every": 0},
    "overlaps": {"overlap_iou": 0.0},
    "lost objects": {"reclaim_from": 0, "reclaim_to": 0},
    "suppression": {"nms_iou": 0.0},
    "holes": {"max_hole_area": 0},
}
SHOWN = ("cgF1", "IL_MCC", "HOTA", "DetA", "AssA", "survival@15", "num_followed@15", "num_hidden@15")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Score how a model follows objects.")
    add = parser.add_argument
    add("model")
    add("--clips", type=int, default=20, help="how many concept clips (default: %(default)s)")
    # An object that hides in a clip is away for about a third of it, here for up to some 15 frames.
    add("--frames", type=int, default=36, help="frames of a clip (default: %(default)s)")
    add("--split", default="val", choices=("train", "val", "unseen"))
    add("--rules", nargs="*", default=[], choices=["all", *RULES_OFF], help="also without these rules, one at a time")
    add("--threshold", type=float, help="least score of a detection and of a track (default: the model's)")
    add("--new-threshold", type=float, help="least score that starts an object (default: the model's)")
    add("--videos", type=Path, help="folder with videos.json and frames/, for first masks")
    add("--max-videos", type=int)
    add("--max-frames", type=int)
    add("--output", type=Path, help="folder for what was found (a stopped run goes on) and metrics.json")
    options = parser.parse_args(arguments)
    model = Sam3Model.from_pretrained(options.model).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    processor = Sam3Processor(size=model.config.image_size)
    scores: dict[str, Any] = _scores_of_rules(model, processor, options) if options.clips else {}
    if options.videos:
        masklets = evaluate_masklets(
            model, processor, options.videos, max_videos=options.max_videos, max_frames=options.max_frames
        )
        print(f"| video | {' | '.join(DAVIS_NAMES)} |\n|{'---|' * (1 + len(DAVIS_NAMES))}")
        for name, figures in masklets.items():
            print(f"| {name} | {' | '.join(f'{figures[figure]:.3f}' for figure in DAVIS_NAMES)} |")
        scores["first masks"] = masklets
    if options.output:
        save_json(scores, options.output / "metrics.json")


def _scores_of_rules(model: Any, processor: Any, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Figures with all rules, then without each that is named."""
    base = VideoRules.from_config(
        model.config, detection_threshold=options.threshold, new_object_threshold=options.new_threshold
    )
    names = list(RULES_OFF) if "all" in options.rules else options.rules
    variants = {"all rules": base} | {f"without {name}": replace(base, **RULES_OFF[name]) for name in names}
    scores = {}
    print(f"| rules | {' | '.join(SHOWN)} |\n|{'---|' * (1 + len(SHOWN))}", flush=True)
    for name, rules in variants.items():
        scores[name] = evaluate_video_model(
            model,
            processor,
            (
                concept_clip(seed, options.frames, model.config.image_size, options.split)
                for seed in range(options.clips)
            ),
            rules=rules,
            threshold=base.detection_threshold,
            output_dir=options.output and options.output / name.replace(" ", "_"),
        )
        print(f"| {name} | {' | '.join(f'{scores[name][figure]:.3f}' for figure in SHOWN)} |", flush=True)
    return scores


if __name__ == "__main__":
    main()
