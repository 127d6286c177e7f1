"""The detector's heads: how well queries match the prompt, and masks of objects and of the whole concept."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configuration import Sam3DetectorConfig, Sam3MaskDecoderConfig
from ..ops.nms import mask_nms
from .layers import MLP, Attention, Conv2d, Linear

__all__ = ["MaskHead", "PromptScoring", "suppress_duplicates"]

MAX_LOGIT = 12.0  # the reference clamps class logits to ±12
_LEAST_LOGIT = -4.6  # a score of 0.01: what answers less is no object as it is


class PromptScoring(nn.Module):
    """Class logit of each query: (num_layers, num_rows, num_queries) float32, within ±12.

    logit = ⟨Wq·query, Wp·mean(LayerNorm(prompt + MLP(prompt)))⟩ / √channels, the mean over valid prompt tokens.
    """

    def __init__(self, config: Sam3DetectorConfig) -> None:
        super().__init__()
        size, wide = config.detr_decoder_config.hidden_size, config.detr_decoder_config.intermediate_size
        self.text_mlp = MLP(size, wide, size)
        self.text_mlp_dropout = nn.Dropout(config.detr_decoder_config.dropout)
        self.text_mlp_out_norm = nn.LayerNorm(size)
        self.text_proj = Linear(size, size)
        self.query_proj = Linear(size, size)

    def forward(self, queries: Tensor, prompt: Tensor, valid: Tensor) -> Tensor:
        prompt = self.text_mlp_out_norm(prompt + self.text_mlp_dropout(self.text_mlp(prompt)))
        weight = valid.to(prompt.dtype)[..., None]
        pooled = (prompt * weight).sum(1) / weight.sum(1).clamp(min=1)
        target, projected = self.text_proj(pooled), self.query_proj(queries)
        logits = torch.einsum("lrqc,rc->lrq", projected.float(), target.float()) * projected.shape[-1] ** -0.5
        return logits.clamp(-MAX_LOGIT, MAX_LOGIT)


def suppress_duplicates(logits: Tensor, masks: Tensor, most_iou: float) -> Tensor:
    """Logits (rows, queries) that are -12 where a mask overlaps a better query's of its row by more than `most_iou`.

    Args:
        logits: (rows, queries) class logits.
        masks: (rows, queries, h, w) mask logits.
        most_iou: IoU in 0..1; queries that overlap by no more are both objects.
    """
    left = logits.clone()
    for row, (row_logits, row_masks) in enumerate(zip(logits, masks, strict=True)):
        answers = (row_logits > _LEAST_LOGIT).nonzero()[:, 0]
        kept = answers[mask_nms(row_masks[answers] > 0, row_logits[answers], most_iou)]
        left[row, answers] = -MAX_LOGIT
        left[row, kept] = row_logits[kept]
    return left


class PixelDecoder(nn.Module):
    """Finest map of pixels' embeddings: from the coarsest map up, add the next finer one, convolve."""

    def __init__(self, config: Sam3MaskDecoderConfig) -> None:
        super().__init__()
        size, stages = config.hidden_size, config.num_upsampling_stages
        self.conv_layers = nn.ModuleList(Conv2d(size, size, 3, padding=1) for _ in range(stages))
        self.norms = nn.ModuleList(nn.GroupNorm(8, size) for _ in range(stages))

    def forward(self, coarse: Tensor, finer: list[Tensor]) -> Tensor:
        # Checkpoints hold one more stage (`num_upsampling_stages` is 3) than there are finer maps (2).
        for skip, conv, norm in zip(reversed(finer), self.conv_layers, self.norms, strict=False):
            coarse = skip + F.interpolate(coarse, size=skip.shape[-2:], mode="nearest")
            coarse = F.relu(norm(conv(coarse)))
        return coarse


class MaskEmbedder(nn.Module):
    """Three-layer MLP on the queries; a class of its own for the names that checkpoints give its layers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Linear(size, size) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers[2](F.relu(self.layers[1](F.relu(self.layers[0](x)))))


class MaskHead(nn.Module):
    """Mask logits of every query and of the concept as a whole, at 4 times the grid.

    mask(query, pixel) = ⟨MLP(query), W·pixel⟩ (Cheng et al. 2021, MaskFormer).
    """

    def __init__(self, config: Sam3MaskDecoderConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.config = config
        self.prompt_cross_attn = Attention(config, size, config.num_attention_heads, dropout=config.dropout)
        self.prompt_cross_attn_norm = nn.LayerNorm(size)
        self.prompt_cross_attn_dropout = nn.Dropout(config.dropout)
        self.pixel_decoder = PixelDecoder(config)
        self.mask_embedder = MaskEmbedder(size)
        self.instance_projection = Conv2d(size, size, 1)
        self.semantic_projection = Conv2d(size, 1, 1)

    def pixels(self, image: Tensor, finer: list[Tensor], prompt: Tensor, prompt_bias: Tensor | None) -> Tensor:
        """Pixel embeddings (rows, channels, 4·grid, 4·grid).

        Args:
            image: (rows, grid², channels) fused picture tokens.
            finer: the neck's two finer maps of each row's picture; a batch of 1 serves all rows.
            prompt: (rows, length, channels).
            prompt_bias: (rows, 1, 1, length) hides padding, or None.
        """
        y = self.prompt_cross_attn(self.prompt_cross_attn_norm(image), prompt, prompt, prompt_bias)
        image = image + self.prompt_cross_attn_dropout(y)
        grid = finer[-1].shape[-1] // 2
        return self.pixel_decoder(image.transpose(1, 2).unflatten(2, (-1, grid)), finer)

    def instances(self, queries: Tensor, pixels: Tensor) -> Tensor:
        """Mask logits (rows, queries, 4·grid, 4·grid) of `queries` (rows, queries, channels)."""
        # ⟨q, W·x + b⟩ = ⟨Wᵀ·q, x⟩ + ⟨q, b⟩: applying W to the few queries saves a convolution over all pixels.
        embedded = self.mask_embedder(queries)
        weight, bias = self.instance_projection.weight[:, :, 0, 0], self.instance_projection.bias
        masks = (embedded @ weight) @ pixels.flatten(2) + (embedded @ bias)[..., None]
        return masks.unflatten(2, pixels.shape[-2:])

    def semantic(self, pixels: Tensor) -> Tensor:
        """Logits (rows, 1, 4·grid, 4·grid) of the concept as a whole."""
        return self.semantic_projection(pixels)
