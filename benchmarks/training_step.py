"""Time of a training step on a CPU: glibc's allocator as it is, against the same told to keep what it was given.

usage: python benchmarks/training_step.py [--pairs 3] [--steps 4] [--pictures 12] [--threads 1]

Tensors above 32 MB that are freed go back to the kernel and come again empty, page by page. `MALLOC_MMAP_MAX_=0` and
a high `MALLOC_TRIM_THRESHOLD_` keep them in the process. A step is the bundled model's detector on concept scenes,
bfloat16 where the CPU has instructions for it, forwards and backwards, the vision tower frozen. Each measurement is a
process of its own, the two in turn; the first step of each is not counted. glibc only (Linux, not Alpine's musl).
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "20000000000", "MALLOC_TOP_PAD_": "300000000"}


def measure(steps: int, pictures: int, threads: int) -> float:
    """Median seconds of a step in this process."""
    import torch

    from sam3_hf import Sam3Model, Sam3Processor, bundled_model
    from sam3_hf.data import SceneDataset
    from sam3_hf.modeling.layers import multiplies_fast
    from sam3_hf.training import ConceptCollator, ConceptDataset
    from sam3_hf.training.recipes import freeze
    from sam3_hf.training.sampling import ConceptSampler

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = Sam3Model.from_pretrained(bundled_model())
    detector, size = model.detector_model.train(), model.config.image_size
    detector.set_attn_implementation("eager")
    freeze(detector, "vision")
    sampler = ConceptSampler(positives=2, random_negatives=0, hard_negatives=1)
    data = ConceptDataset(SceneDataset(1000, image_size=size), sampler)
    batch = ConceptCollator(Sam3Processor(size=size))([data[index] for index in range(pictures)])
    taken = []
    for _ in range(steps + 1):
        begun = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_fast(torch.bfloat16)):
            loss = detector(**batch).loss
        loss.backward()
        detector.zero_grad()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--pictures", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(measure(options.steps, options.pictures, options.threads))
        return
    ratios = []
    for pair in range(options.pairs):
        seconds = []
        for changes in ({}, KEPT):
            command = [sys.executable, *sys.argv, "--measure"]
            plain = {name: value for name, value in os.environ.items() if name not in KEPT}
            done = subprocess.run(command, env=plain | changes, stdout=subprocess.PIPE, text=True, check=True)
            seconds.append(float(done.stdout.split()[-1]))
        ratios.append(seconds[1] / seconds[0])
        print(f"pair {pair + 1}: {seconds[0]:.2f} s as it is, {seconds[1]:.2f} s kept, ratio {ratios[-1]:.2f}")
    print(f"ratio of a step: {statistics.median(ratios):.2f} (median of {options.pairs})")


if __name__ == "__main__":
    main()
