"""Time of attention with gradients in bfloat16 on a CPU: softmax on half precision as it is, against in float32.

usage: python benchmarks/attention_step.py [--pairs 5] [--tokens 576] [--rows 12] [--threads 1]

Forwards and backwards through `attend` ("eager") for ROWS pictures of TOKENS tokens, 6 heads of 32 channels, under
autocast as in training. The other one of a pair casts logits to float32 for the softmax, as is done on a GPU. In turn,
the first of each not counted.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from sam3_hf.modeling import layers


def in_float32(logits: Tensor) -> Tensor:
    return logits.softmax(-1, dtype=torch.float32)


def measure(softmax: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> float:
    """Seconds of one step with this softmax."""
    kept, layers._softmax = layers._softmax, softmax
    try:
        torch.manual_seed(0)
        query, key, value = (torch.randn(shape, dtype=torch.bfloat16).requires_grad_() for _ in range(3))
        begun = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16):
            answer = layers.attend(query, key, value, "eager")
        answer.float().square().mean().backward()
        return time.perf_counter() - begun
    finally:
        layers._softmax = kept


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=576)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape = (options.rows, 6, options.tokens, 32)
    for softmax in (in_float32, layers._softmax):
        measure(softmax, shape)
    ratios = []
    for pair in range(options.pairs):
        float32, half = measure(in_float32, shape), measure(layers._softmax, shape)
        ratios.append(float32 / half)
        print(f"pair {pair + 1}: {float32:.3f} s in float32, {half:.3f} s as it is, ratio {ratios[-1]:.2f}")
    print(f"float32 takes {statistics.median(ratios):.2f} times as long (median of {options.pairs})")


if __name__ == "__main__":
    main()
