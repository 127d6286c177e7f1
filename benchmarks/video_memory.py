"""Memory of a long stream: grows by how much a frame, with ten objects?

usage: python benchmarks/video_memory.py [--frames 2000] [--objects 10] [--device cpu]

Streams random frames through a tiny tracker and prints the resident memory (and the GPU's) every 100 frames, then the
growth a frame after the first 200.
"""

import argparse
import gc
from pathlib import Path

import numpy as np
import torch

from sam3_hf import Sam3Processor, Sam3VideoTracker, tiny_config
from sam3_hf.video import track_frame
from sam3_hf.video.engine import prepare

WARM_UP = 200


def resident_mb() -> float:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--objects", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = Sam3VideoTracker(tiny_config(112).tracker_config).eval().to(options.device)
    processor = Sam3Processor(size=112)
    session = processor.init_video_session(inference_device=options.device)
    rng = np.random.default_rng(0)
    places = [[[point]] for point in rng.uniform(10, 100, (options.objects, 2)).tolist()]
    processor.add_inputs_to_inference_session(
        session, 0, list(range(options.objects)), [[place[0] for place in places]], original_size=(120, 160)
    )
    at: dict[int, tuple[float, float]] = {}
    for frame in range(options.frames + 1):
        image = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
        track_frame(model, session, frame, prepare(session, image))
        if frame % 100 == 0:
            gc.collect()
            gpu = torch.cuda.memory_allocated() / 1e6 if options.device.startswith("cuda") else 0.0
            at[frame] = resident_mb(), gpu
            print(f"frame {frame}: {at[frame][0]:.1f} MB resident, {gpu:.1f} MB on the GPU", flush=True)
    last = max(at)
    first = min(WARM_UP, last)
    steps = max(last - first, 1)
    growth = [(end - start) / steps for start, end in zip(at[first], at[last], strict=True)]
    print(f"==> growth from frame {first} to {last}: {growth[0]:.4f} MB a frame resident, {growth[1]:.4f} on the GPU")


if __name__ == "__main__":
    main()
