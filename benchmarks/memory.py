"""Peak memory of loading a checkpoint and of answering one picture, next to transformers' where that runs.

usage: python benchmarks/memory.py load CHECKPOINT            # makes a random one of released size (3.4 GB) if absent
       python benchmarks/memory.py forward [--phrases 1]      # transformers' side needs torchvision

Every measurement is a process of its own, sampled every 5 ms from /proc (Linux). "anonymous" is memory that the process
wrote; "file" is the checkpoint mapped from disk, which the kernel may drop at any time.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

GIGABYTE = 2**20  # /proc counts in kB


def resident() -> tuple[int, int]:
    """Resident memory of this process in kB: anonymous, mapped from files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["RssAnon"].split()[0]), int(fields["RssFile"].split()[0])


@contextmanager
def sampled(report: dict[str, float]) -> Iterator[None]:
    """Fills `report` with growth and peaks, in GB, of what runs inside."""
    start, peak, done = resident(), [0, 0, 0], threading.Event()

    def watch() -> None:
        while not done.is_set():
            anonymous, file = resident()
            for i, value in enumerate((anonymous, file, anonymous + file)):
                peak[i] = max(peak[i], value)
            time.sleep(0.005)

    thread = threading.Thread(target=watch)
    thread.start()
    began = time.perf_counter()
    try:
        yield
    finally:
        report["seconds"] = time.perf_counter() - began
        done.set()
        thread.join()
        for name, value, base in zip(("anonymous", "file", "both"), peak, (*start, sum(start)), strict=True):
            report[f"peak_{name}_growth_gb"] = (value - base) / GIGABYTE


def measure_load(checkpoint: str) -> dict[str, float]:
    from sam3_hf import Sam3Model

    report: dict[str, float] = {}
    with sampled(report):
        model = Sam3Model.from_pretrained(checkpoint)
        total = sum(float(p.double().sum()) for p in model.parameters())  # touch every weight
    assert total == total
    report["weights_gb"] = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**30
    return report


def measure_forward(whose: str, num_phrases: int) -> dict[str, float]:
    import torch

    from sam3_hf import Sam3Detector, Sam3DetectorConfig

    config = Sam3DetectorConfig()
    if whose == "ours":
        model = Sam3Detector(config).eval()
    else:
        from transformers import Sam3Config, Sam3Model

        model = Sam3Model(Sam3Config(**{k: v for k, v in config.to_dict().items() if k.endswith("_config")})).eval()
    pixels, ids = torch.zeros(1, 3, 1008, 1008), torch.ones(num_phrases, 32, dtype=torch.long)
    report: dict[str, float] = {}
    with torch.inference_mode(), sampled(report):
        if whose == "ours":
            model(pixel_values=pixels, input_ids=ids, attention_mask=ids)
        else:  # transformers answers one phrase a call; the answers are kept, as ours are
            embeds = model.get_vision_features(pixel_values=pixels)
            _ = [model(vision_embeds=embeds, input_ids=row[None], attention_mask=row[None]) for row in ids]
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("load", "forward"))
    parser.add_argument("checkpoint", nargs="?", default="outputs/random-sam3")
    parser.add_argument("--phrases", type=int, default=1)
    parser.add_argument("--whose", choices=("ours", "transformers"), help=argparse.SUPPRESS)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        if arguments.what == "load":
            print(json.dumps(measure_load(arguments.checkpoint)))
        else:
            print(json.dumps(measure_forward(arguments.whose, arguments.phrases)))
        return
    if arguments.what == "load" and not (Path(arguments.checkpoint) / "config.json").is_file():
        from sam3_hf import Sam3Config, Sam3Model

        print(f"making a random checkpoint of released size in {arguments.checkpoint} ...", flush=True)
        Sam3Model(Sam3Config()).save_pretrained(arguments.checkpoint)
    for whose in ("ours", "transformers") if arguments.what == "forward" else ("ours",):
        command = [sys.executable, __file__, *sys.argv[1:], "--inside", "--whose", whose]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{whose}: did not run: {done.stderr.strip().splitlines()[-1]}")
            continue
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        print(f"{whose}: " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
