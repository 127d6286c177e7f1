"""Time and answers of one picture, in turn with transformers' `Sam3Model` on the same random weights of released size.

usage: python benchmarks/images_vs_transformers.py [--dtype float32 bfloat16] [--phrases 1 16] [--pairs 3]
           [--peers calls reuse] [--tiny]
needs: transformers >= 5.10 with torchvision (transformers' own classes ask for it), 12 GB of memory.

Prints, for every dtype and number of phrases, the seconds of each pair and the ratio ours / transformers. Transformers
is called as its page on SAM 3 shows: once per phrase with everything (`calls`), and, for several phrases, also with the
picture encoded once (`reuse`). Machines are noisy: look at the ratios of pairs, not at single times.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import Sam3Config as TheirConfig
from transformers import Sam3Model as TheirModel

from sam3_hf import Sam3Detector, Sam3DetectorConfig, tiny_config


def build(tiny: bool) -> tuple[Any, Sam3Detector]:
    """transformers' detector with random weights, and ours on the very same tensors."""
    config = tiny_config().detector_config if tiny else Sam3DetectorConfig()
    config.geometry_encoder_config.exemplar_points = False
    content = config.to_dict()
    theirs = TheirModel(TheirConfig(**{k: v for k, v in content.items() if k.endswith("_config")})).eval()
    with torch.device("meta"):
        ours = Sam3Detector(config)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    return theirs, ours.eval()


@torch.inference_mode()
def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def run(
    theirs: Any, ours: Sam3Detector, dtype: torch.dtype, num_phrases: int, pairs: int, peers: Sequence[str]
) -> None:
    side = ours.config.image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, side, side, generator=generator).to(dtype)
    ids = torch.randint(1, 49000, (num_phrases, 32), generator=generator)
    mask = torch.ones_like(ids)
    mask[:, 6:] = 0

    def their_calls() -> None:
        for i in range(num_phrases):
            theirs(pixel_values=pixels, input_ids=ids[i : i + 1], attention_mask=mask[i : i + 1])

    def their_reuse() -> None:
        embeds = theirs.get_vision_features(pixel_values=pixels)
        for i in range(num_phrases):
            theirs(vision_embeds=embeds, input_ids=ids[i : i + 1], attention_mask=mask[i : i + 1])

    def our_call() -> None:
        ours(pixel_values=pixels, input_ids=ids, attention_mask=mask)

    ways = {"calls": their_calls} | ({"reuse": their_reuse} if num_phrases > 1 else {})
    for name, their in ((name, way) for name, way in ways.items() if name in peers):
        ratios = []
        for pair in range(pairs):
            # Whoever comes first changes from pair to pair.
            if pair % 2:
                a, b = seconds(our_call), seconds(their)
            else:
                b, a = seconds(their), seconds(our_call)
            ratios.append(a / b)
            case = f"{dtype}, {num_phrases} phrase(s), transformers by {name}"
            print(f"{case}: pair {pair}: ours {a:.2f} s, theirs {b:.2f} s", flush=True)
        middle = sorted(ratios)[len(ratios) // 2]
        print(f"==> {case}: ours / theirs = {middle:.3f} (median of {pairs} pairs)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--phrases", nargs="+", type=int, default=[1, 16])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--peers", nargs="+", choices=("calls", "reuse"), default=["calls", "reuse"])
    parser.add_argument("--tiny", action="store_true", help="a tiny model: checks the script, its times mean nothing")
    arguments = parser.parse_args()
    theirs, ours = build(arguments.tiny)
    for name in arguments.dtype:
        dtype = getattr(torch, name)
        theirs.to(dtype)
        ours.to(dtype)
        for num_phrases in arguments.phrases:
            run(theirs, ours, dtype, num_phrases, arguments.pairs, arguments.peers)


if __name__ == "__main__":
    main()
