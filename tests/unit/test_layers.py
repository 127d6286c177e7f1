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


@pytest.mark.parametrize("shape", [(3, 4, 40, 16), (1, 2, 1100, 8)], ids=["windows", "one long sequence"])
def test_attention_in_pieces_equals_the_whole(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "LOGITS_AT_ONCE", 5000)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(shape, generator=generator) for _ in range(3))
    whole = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert torch.allclose(layers._attend_in_pieces(query, key, value), whole, atol=1e-5)


def test_attention_goes_in_pieces_only_without_gradients_and_in_fast_half_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = []
    whole = layers._attend_in_pieces
    monkeypatch.setattr(layers, "multiplies_fast", lambda dtype: dtype == torch.bfloat16)
    monkeypatch.setattr(layers, "_attend_in_pieces", lambda *given: taken.append(given) or whole(*given))
    x = torch.randn(2, 2, 256, 8)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        layers.attend(*[x.to(dtype)] * 3, "sdpa")
    assert not taken
    with torch.no_grad():
        layers.attend(*[x] * 3, "sdpa")
        layers.attend(*[x.to(torch.float16)] * 3, "sdpa")
        layers.attend(*[x.bfloat16()] * 3, "sdpa", bias=torch.zeros(1, 1, 1, 256, dtype=torch.bfloat16))
        layers.attend(*[x.bfloat16()] * 3, "eager")
        assert not taken
        in_pieces = layers.attend(*[x.bfloat16()] * 3, "sdpa")
    assert len(taken) == 1
    assert torch.allclose(in_pieces.float(), layers.attend(*[x] * 3, "sdpa"), atol=0.03)


def test_float32_mlp_equals_linear_layers_and_its_gradient() -> None:
    torch.manual_seed(0)
    mlp = layers.Float32MLP(2, 16, 4)
    plain = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    for ours, theirs in ((mlp.layer1, plain[0]), (mlp.layer2, plain[2])):
        theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 5, 7, 2)
    assert torch.allclose(mlp(x), plain(x), atol=1e-6)
    mlp(x).square().sum().backward()
    plain(x).square().sum().backward()
    assert torch.allclose(mlp.layer1.weight.grad, plain[0].weight.grad, rtol=1e-4, atol=1e-4)


def test_eager_attention_in_half_precision_is_as_exact_as_its_inputs() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 40, 16) for _ in range(3))
    bias = torch.randn(2, 1, 40, 40)
    given = [x.bfloat16().requires_grad_() for x in (q, k, v)]
    exact = [x.detach().double().requires_grad_() for x in given]
    with torch.autocast("cpu", torch.bfloat16):  # which would have the softmax and all before it in float32
        half = layers.attend(*given, "eager", bias=bias)
    assert half.dtype == torch.bfloat16
    whole = layers.attend(*exact, "eager", bias=bias.double())
    assert (half - whole).abs().max() < 0.02
    half.float().square().sum().backward()
    whole.square().sum().backward()
    for one, other in zip(given, exact, strict=True):
        assert one.grad is not None and other.grad is not None
        assert (one.grad - other.grad).norm() < 0.02 * other.grad.norm()
