"""Small layers that several boxes of the diagram are made of."""

import contextlib
import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

__all__ = [
    "MLP",
    "Attention",
    "ChannelsFirstLayerNorm",
    "Conv2d",
    "ConvTranspose2d",
    "FeedForward",
    "Float32MLP",
    "Linear",
    "attend",
    "inverse_sigmoid",
    "key_padding_bias",
    "multiplies_fast",
    "needs_float32",
    "sine_grid",
    "sine_position",
]


@cache
def multiplies_fast(dtype: torch.dtype) -> bool:
    """Whether this machine's CPU has instructions for matrix products in `dtype` (bfloat16 or float16)."""
    names = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
    supported = getattr(torch.ops.mkldnn, names[dtype], None)
    return supported is not None and bool(supported())


def needs_float32(x: Tensor) -> bool:
    """Whether products with `x` are better done in float32: half precision on a CPU that would only emulate it."""
    if x.dtype not in (torch.bfloat16, torch.float16) or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not multiplies_fast(x.dtype)


def _float(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float()


class Linear(nn.Linear):
    """`nn.Linear` that is not slower in half precision than in float32 (see `needs_float32`)."""

    def forward(self, input: Tensor) -> Tensor:
        if not needs_float32(input):
            return super().forward(input)
        return F.linear(input.float(), self.weight.float(), _float(self.bias)).to(input.dtype)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` that is not slower in half precision than in float32 (see `needs_float32`)."""

    def forward(self, input: Tensor) -> Tensor:
        if not needs_float32(input):
            return super().forward(input)
        return self._conv_forward(input.float(), self.weight.float(), _float(self.bias)).to(input.dtype)


class ConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d` that is not slower in half precision than in float32 (see `needs_float32`)."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not needs_float32(input):
            return super().forward(input, output_size)
        weight, bias = self.weight.float(), _float(self.bias)
        return F.conv_transpose2d(input.float(), weight, bias, self.stride).to(input.dtype)


# On a CPU, a wide layer's activations of a whole picture (98 MB in float32) are fetched anew from the kernel each time;
# those of a quarter of it are small enough for the allocator to keep, which saved 8 % on 2 cores.
TOKENS_AT_ONCE = 1296


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    implementation: str | None,
    bias: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(Q·Kᵀ/√d + bias)·V: (batch, heads, queries, head_dim).

    Args:
        query: (batch, heads, queries, head_dim).
        key: (batch, heads, keys, head_dim).
        value: (batch, heads, keys, head_dim).
        implementation: "sdpa" (fused) or "eager" (plain); the same up to rounding.
        bias: added to the logits, broadcastable to (batch, heads, queries, keys), of the dtype of `query`.
        causal: a query sees no later key.
        dropout: rate at which attention weights are dropped.
    """
    if implementation != "eager":
        if bias is None and not causal and not dropout and _is_faster_in_pieces(query, key):
            return _attend_in_pieces(query, key, value)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, is_causal=causal)
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if causal:
        later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
        logits = logits.masked_fill(later, -math.inf)
    if bias is not None:
        logits = logits + bias.to(logits.dtype)
    return F.dropout(_softmax(logits).to(query.dtype), dropout) @ value


def _softmax(logits: Tensor) -> Tensor:
    """Softmax over the last dimension, summed up in float32.

    On a CPU half precision is read and written as it is: autocast and copies in float32 cost more than the products
    (`benchmarks/attention_step.py`).
    """
    if logits.device.type != "cpu" or logits.dtype not in (torch.bfloat16, torch.float16):
        return logits.softmax(-1, dtype=torch.float32)
    with torch.autocast("cpu", enabled=False):
        return logits.softmax(-1)


# On a CPU, torch's fused attention multiplies bfloat16 at a third of the speed of plain products. Without gradients,
# plain products are used there, a piece of the queries at a time: what lies between them then stays in the cache.
QUERIES_AT_ONCE = 144
LOGITS_AT_ONCE = 1_500_000


def _is_faster_in_pieces(query: Tensor, key: Tensor) -> bool:
    """Whether attention is large enough, and done where plain half-precision products beat the fused kernel."""
    if query.device.type != "cpu" or query.dtype not in (torch.bfloat16, torch.float16) or key.shape[-2] < 256:
        return False
    return not torch.is_grad_enabled() and not torch.compiler.is_compiling() and multiplies_fast(query.dtype)


def _attend_in_pieces(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`attend` without bias by plain products: (batch, heads, queries, head_dim)."""
    num_queries, num_keys = query.shape[-2], key.shape[-2]
    q, k, v = ((query * query.shape[-1] ** -0.5).flatten(0, 1), key.flatten(0, 1).transpose(1, 2), value.flatten(0, 1))
    rows = num_queries if num_keys <= 1024 else QUERIES_AT_ONCE
    heads = max(1, LOGITS_AT_ONCE // (rows * num_keys))
    out = torch.empty_like(q)
    for i in range(0, len(q), heads):
        for j in range(0, num_queries, rows):
            weights = torch.bmm(q[i : i + heads, j : j + rows], k[i : i + heads]).softmax(-1)
            out[i : i + heads, j : j + rows] = torch.bmm(weights, v[i : i + heads])
    return out.view(query.shape)


def key_padding_bias(valid: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """(batch, 1, 1, keys) attention bias that hides keys where `valid` (batch, keys) is False; None without `valid`."""
    if valid is None:
        return None
    bias = torch.zeros(valid.shape, dtype=dtype, device=valid.device)
    return bias.masked_fill(~valid, torch.finfo(dtype).min)[:, None, None]


class Attention(nn.Module):
    """Multi-head attention with separate projections; batches and lengths in front, channels last.

    Args:
        config: a configuration; only its `_attn_implementation` is read.
        hidden_size: channels of the queries and of the output.
        num_heads: heads.
        inner_size: channels inside (default `hidden_size`).
        key_size: channels of keys and values (default `hidden_size`).
        dropout: rate on the attention weights in training.
        output_name: name of the output projection in checkpoints.
    """

    def __init__(
        self,
        config: Any,
        hidden_size: int,
        num_heads: int,
        inner_size: int | None = None,
        key_size: int | None = None,
        dropout: float = 0.0,
        output_name: str = "o_proj",
    ) -> None:
        super().__init__()
        inner_size, key_size = inner_size or hidden_size, key_size or hidden_size
        if inner_size % num_heads:
            raise ValueError(f"{inner_size} attention channels cannot be split evenly among {num_heads} heads")
        self.config, self.num_heads, self.dropout, self.output_name = config, num_heads, dropout, output_name
        self.q_proj = Linear(hidden_size, inner_size)
        self.k_proj = Linear(key_size, inner_size)
        self.v_proj = Linear(key_size, inner_size)
        self.add_module(output_name, Linear(inner_size, hidden_size))

    def split(self, x: Tensor) -> Tensor:
        """(batch, heads, length, head_dim) from (batch, length, channels)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def merge(self, x: Tensor) -> Tensor:
        """The output projection of (batch, heads, length, head_dim): (batch, length, hidden_size)."""
        return self.get_submodule(self.output_name)(x.transpose(1, 2).flatten(2))

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        q, k, v = self.split(self.q_proj(query)), self.split(self.k_proj(key)), self.split(self.v_proj(value))
        dropout = self.dropout if self.training else 0.0
        return self.merge(attend(q, k, v, self.config._attn_implementation, bias, causal, dropout))


class FeedForward(nn.Module):
    """Two linear layers with an activation between them, as in a transformer layer."""

    def __init__(self, hidden_size: int, intermediate_size: int, activation: str, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = Linear(hidden_size, intermediate_size)
        self.activation = ACT2FN[activation]
        self.dropout = nn.Dropout(dropout)
        self.fc2 = Linear(intermediate_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            parts = x.flatten(0, -2).split(TOKENS_AT_ONCE)
            return torch.cat([self._whole(part) for part in parts]).view(*x.shape[:-1], self.fc2.out_features)
        return self._whole(x)

    def _whole(self, x: Tensor) -> Tensor:
        return self.fc2(self.dropout(self.activation(self.fc1(x))))


class MLP(nn.Module):
    """`len(sizes) - 1` linear layers named layer1, layer2, ... with ReLU between them."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.num_layers = len(sizes) - 1
        for i in range(self.num_layers):
            self.add_module(f"layer{i + 1}", Linear(sizes[i], sizes[i + 1]))

    def forward(self, x: Tensor) -> Tensor:
        for i in range(self.num_layers):
            layer = self.get_submodule(f"layer{i + 1}")
            x = F.relu(layer(x)) if i < self.num_layers - 1 else layer(x)
        return x


class Float32MLP(MLP):
    """An `MLP` computed in float32 whatever the model's dtype: in bfloat16, box and presence maths lose objects."""

    def forward(self, x: Tensor) -> Tensor:
        device = x.device.type
        has_autocast = torch.amp.is_autocast_available(device)  # not on the meta device
        with torch.autocast(device, enabled=False) if has_autocast else contextlib.nullcontext():
            x = x.float()
            for i in range(self.num_layers):
                layer = self.get_submodule(f"layer{i + 1}")
                assert isinstance(layer, nn.Linear)
                # As `F.linear`, but weights of few columns (2 for the box-relative bias) get their gradient from a
                # product that is 15 times faster on a CPU: autograd follows the layout of the second factor.
                columns = layer.weight.float().t().contiguous()
                x = torch.addmm(layer.bias.float(), x.flatten(0, -2), columns).unflatten(0, x.shape[:-1])
                x = F.relu(x) if i < self.num_layers - 1 else x
            return x


class ChannelsFirstLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of (batch, channels, height, width)."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


def inverse_sigmoid(x: Tensor, eps: float = 1e-3) -> Tensor:
    """log(x / (1 - x)) with both parts kept above `eps`, as the reference has it."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def sine_position(x: Tensor, num_features: int, temperature: float = 10000.0) -> Tensor:
    """Sine embedding of coordinates in 0..1: (..., num_features) float32, sines and cosines interleaved.

    Feature 2i is sin(2π·x / T^(2i/n)) and feature 2i+1 the cosine of the same angle (Vaswani et al. 2017, as in DETR).
    """
    index = torch.arange(num_features, device=x.device)
    period = temperature ** (2 * (index // 2) / num_features)
    angle = (x.float() * (2 * math.pi))[..., None] / period
    return torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), -1).flatten(-2)


def sine_grid(height: int, width: int, num_features: int, device: torch.device) -> Tensor:
    """Sine position of the cells of a map, first half y, second half x: (height, width, num_features) float32."""
    eps = 1e-6  # the reference divides by (size + eps)
    y = torch.arange(1, height + 1, device=device, dtype=torch.float32) / (height + eps)
    x = torch.arange(1, width + 1, device=device, dtype=torch.float32) / (width + eps)
    y = sine_position(y, num_features // 2)[:, None].expand(-1, width, -1)
    x = sine_position(x, num_features // 2)[None].expand(height, -1, -1)
    return torch.cat((y, x), -1)
