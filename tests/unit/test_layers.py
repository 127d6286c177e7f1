"""Layers whose fast path must not change what they compute."""

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
