"""Layers whose fast path must not change what they compute."""

import copy

import pytest
import torch

from sam3_hf.modeling import layers
from sam3_hf.modeling.layers import FeedForward


def test_feed_forward_in_parts_equals_the_whole() -> None:
    torch.manual_seed(0)
    layer = FeedForward(8, 16, "gelu").eval()
    x = torch.randn(2, 41, 41, 8)
    assert x.shape[:-1].numel() > 2 * layers.TOKENS_AT_ONCE
    whole = layer(x)  # with gradients: at once
    with torch.inference_mode():
        parts = layer(x)
        empty = layer(x[:0])
    assert whole.requires_grad and parts.shape == whole.shape and empty.shape == (0, 41, 41, 8)
    assert (parts - whole).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_emulated_half_precision_is_done_in_float32(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the CPU has no such instructions: the same numbers, rounded once at the end rather than on the way."""
    torch.manual_seed(0)
    cases = [
        (layers.Linear(40, 8), torch.randn(3, 40)),
        (layers.Linear(40, 8, bias=False), torch.randn(3, 40)),
        (layers.Conv2d(4, 6, 3, padding=1), torch.randn(2, 4, 9, 9)),
        (layers.Conv2d(4, 4, 3, 2, 1, groups=4), torch.randn(2, 4, 9, 9)),
        (layers.ConvTranspose2d(4, 6, 2, 2), torch.randn(2, 4, 5, 5)),
    ]
    for layer, x in cases:
        layer, x = layer.to(dtype), x.to(dtype)
        exact = copy.deepcopy(layer).float()(x.float())
        for fast in (True, False):
            monkeypatch.setattr(layers, "multiplies_fast", lambda _, fast=fast: fast)
            assert layers.needs_float32(x) is not fast
            out = layer(x)
            assert out.dtype == dtype and out.shape == exact.shape
            assert (out.float() - exact).abs().max() < 0.05
        assert torch.equal(out, exact.to(dtype))  # the last one, in float32
    assert not layers.needs_float32(torch.ones(1))
