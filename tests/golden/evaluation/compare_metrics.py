"""Compares our scoring of files with the reference's evaluator on fresh random cases; prints the largest difference.

Needs the reference (PyPI package `sam3`), pycocotools and this package:

    python tests/golden/evaluation/compare_metrics.py --cases 3000 --first-seed 1000

Cases are those of make_reference_metrics.py with other seeds: ties, pairs with nothing on one side or both, crowds,
masks without pixels, scores at exactly 0.5, one annotator or three, masks and boxes.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parent))
from make_reference_metrics import expected, random_case

from sam3_hf.evaluation.annotations import load_annotations
from sam3_hf.evaluation.results import load_results
from sam3_hf.evaluation.scoring import ScoreSettings, score_results


def main() -> None:
    """Prints how many cases were compared and where they differ most."""
    parser = argparse.ArgumentParser(description="Compare our scoring with the reference's on random cases.")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first-seed", type=int, default=1000)
    options = parser.parse_args()
    worst, compared, pairs = (0.0, ""), 0, 0
    for seed in tqdm(range(options.first_seed, options.first_seed + options.cases), unit="case", mininterval=5):
        case = random_case(seed)
        annotated = load_annotations(case["annotators"])
        if not any(pair.is_exhaustive for pair in annotated):
            continue
        truth = expected(case)
        settings = ScoreSettings(bootstrap=0, average_precision=False)
        ours = score_results(annotated, load_results(case["results"], annotated), settings).metrics
        for name, value in truth.items():
            difference = abs(ours[f"cgF1_eval_{case['iou_type']}_{name}"] - value)
            worst = max(worst, (difference, f"{name} of {case['name']}"))
        compared, pairs = compared + 1, pairs + len(annotated)
    print(f"{compared} cases with {pairs} pairs; largest difference {worst[0]:.3g} {worst[1]}")


if __name__ == "__main__":
    main()
