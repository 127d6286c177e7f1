"""The two-way mask decoder of SAM 2: prompt tokens and picture attend to each other, then draw one object's masks."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from ..configuration import Sam3TrackerMaskDecoderConfig
from .layers import Attention, ChannelsFirstLayerNorm, Conv2d, ConvTranspose2d, Linear, key_padding_bias

__all__ = ["MaskDecoder", "MaskDecoderOutput", "NamedMLP"]


class NamedMLP(nn.Module):
    """MLP of `num_layers` linear layers, named proj_in, layers and proj_out in checkpoints."""

    def __init__(
        self, in_size: int, hidden_size: int, out_size: int, num_layers: int = 3, activation: str = "relu"
    ) -> None:
        super().__init__()
        self.proj_in = Linear(in_size, hidden_size)
        self.layers = nn.ModuleList(Linear(hidden_size, hidden_size) for _ in range(num_layers - 2))
        self.proj_out = Linear(hidden_size, out_size)
        self.activation = ACT2FN[activation]

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.proj_in(x))
        for layer in self.layers:
            x = self.activation(layer(x))
        return self.proj_out(x)


class TwoWayLayer(GradientCheckpointingLayer):
    """Tokens attend to themselves and to the picture; then the picture attends to the tokens."""

    def __init__(self, config: Sam3TrackerMaskDecoderConfig, first: bool) -> None:
        super().__init__()
        size, heads = config.hidden_size, config.num_attention_heads
        inner = size // config.attention_downsample_rate
        self.first = first
        self.self_attn = Attention(config, size, heads)
        self.layer_norm1 = nn.LayerNorm(size)
        self.cross_attn_token_to_image = Attention(config, size, heads, inner)
        self.layer_norm2 = nn.LayerNorm(size)
        self.mlp = NamedMLP(size, config.mlp_dim, size, num_layers=2)
        self.layer_norm3 = nn.LayerNorm(size)
        self.layer_norm4 = nn.LayerNorm(size)
        self.cross_attn_image_to_token = Attention(config, size, heads, inner)

    def forward(
        self, tokens: Tensor, image: Tensor, token_position: Tensor, image_position: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if self.first:  # tokens are still their own position
            tokens = self.self_attn(tokens, tokens, tokens, bias)
        else:
            placed = tokens + token_position
            tokens = tokens + self.self_attn(placed, placed, tokens, bias)
        tokens = self.layer_norm1(tokens)
        placed_image = image + image_position
        attended = self.cross_attn_token_to_image(tokens + token_position, placed_image, image)
        tokens = self.layer_norm2(tokens + attended)
        tokens = self.layer_norm3(tokens + self.mlp(tokens))
        attended = self.cross_attn_image_to_token(placed_image, tokens + token_position, tokens, bias)
        return tokens, self.layer_norm4(image + attended)


class TwoWayTransformer(nn.Module):
    """Two-way layers, then tokens read the picture once more."""

    def __init__(self, config: Sam3TrackerMaskDecoderConfig) -> None:
        super().__init__()
        size, heads = config.hidden_size, config.num_attention_heads
        self.layers = nn.ModuleList(TwoWayLayer(config, first=i == 0) for i in range(config.num_hidden_layers))
        self.final_attn_token_to_image = Attention(config, size, heads, size // config.attention_downsample_rate)
        self.layer_norm_final_attn = nn.LayerNorm(size)

    def forward(
        self, tokens: Tensor, image: Tensor, image_position: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        position = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, position, image_position, bias)
        attended = self.final_attn_token_to_image(tokens + position, image + image_position, image)
        return self.layer_norm_final_attn(tokens + attended), image


@dataclass
class MaskDecoderOutput:
    """What the decoder says of each object.

    Attributes:
        masks: (objects, num_masks, 4·grid, 4·grid) logits; num_masks is 3 or 1.
        iou_scores: (objects, num_masks) in 0..1.
        mask_tokens: (objects, num_masks, channels), from which object pointers are made.
        object_score_logits: (objects, 1).
    """

    masks: Tensor
    iou_scores: Tensor
    mask_tokens: Tensor
    object_score_logits: Tensor


class MaskDecoder(nn.Module):
    """Masks, IoU and object scores of each object."""

    def __init__(self, config: Sam3TrackerMaskDecoderConfig) -> None:
        super().__init__()
        size, count = config.hidden_size, config.num_multimask_outputs + 1
        self.config = config
        self.num_mask_tokens = count
        self.obj_score_token = nn.Embedding(1, size)
        self.iou_token = nn.Embedding(1, size)
        self.mask_tokens = nn.Embedding(count, size)
        self.transformer = TwoWayTransformer(config)
        self.upscale_conv1 = ConvTranspose2d(size, size // 4, 2, 2)
        self.upscale_layer_norm = ChannelsFirstLayerNorm(size // 4, eps=1e-6)
        self.upscale_conv2 = ConvTranspose2d(size // 4, size // 8, 2, 2)
        self.output_hypernetworks_mlps = nn.ModuleList(NamedMLP(size, size, size // 8) for _ in range(count))
        self.iou_prediction_head = NamedMLP(size, config.iou_head_hidden_dim, count, config.iou_head_depth)
        self.pred_obj_score_head = NamedMLP(size, size, 1)
        self.conv_s0 = Conv2d(size, size // 8, 1)
        self.conv_s1 = Conv2d(size, size // 4, 1)

    def forward(
        self,
        image: Tensor,
        image_position: Tensor,
        finer: tuple[Tensor, Tensor],
        tokens: Tensor,
        tokens_valid: Tensor,
        dense: Tensor,
        multimask_output: bool,
    ) -> MaskDecoderOutput:
        """Decodes objects.

        Args:
            image: (objects, channels, grid, grid) coarsest map of each object's picture.
            image_position: (1, channels, grid, grid).
            finer: maps of 4 and 2 times the grid after `conv_s0` and `conv_s1`, of each object's picture.
            tokens: (objects, count, channels) from the prompt encoder.
            tokens_valid: (objects, count) False on padding, which nothing attends to.
            dense: (objects or 1, channels, grid or 1, grid or 1) from the prompt encoder, added to `image`.
            multimask_output: three masks, for ambiguous prompts, rather than one.
        """
        num_objects, height = image.shape[0], image.shape[-2]
        own = torch.cat((self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight))
        tokens = torch.cat((own.expand(num_objects, -1, -1), tokens), 1)
        valid = F.pad(tokens_valid, (own.shape[0], 0), value=True)
        bias = key_padding_bias(valid, tokens.dtype)
        flat = (image + dense).flatten(2).transpose(1, 2)
        tokens, flat = self.transformer(tokens, flat, image_position.flatten(2).transpose(1, 2), bias)
        pixels = self._upscale(flat.transpose(1, 2).unflatten(2, (height, -1)), finer)
        mask_tokens = tokens[:, 2 : 2 + self.num_mask_tokens]
        weights = [mlp(mask_tokens[:, i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)]
        masks = torch.einsum("omc,ochw->omhw", torch.stack(weights, 1), pixels)
        ious = self.iou_prediction_head(tokens[:, 1]).sigmoid()
        object_score_logits = self.pred_obj_score_head(tokens[:, 0])
        if multimask_output:
            return MaskDecoderOutput(masks[:, 1:], ious[:, 1:], mask_tokens[:, 1:], object_score_logits)
        if self.config.dynamic_multimask_via_stability and not self.training:
            single, iou = self._stable_or_best(masks, ious)
        else:
            single, iou = masks[:, :1], ious[:, :1]
        return MaskDecoderOutput(single, iou, mask_tokens[:, :1], object_score_logits)

    def _upscale(self, x: Tensor, finer: tuple[Tensor, Tensor]) -> Tensor:
        x = F.gelu(self.upscale_layer_norm(self.upscale_conv1(x) + finer[1]))
        return F.gelu(self.upscale_conv2(x) + finer[0])

    def _stable_or_best(self, masks: Tensor, ious: Tensor) -> tuple[Tensor, Tensor]:
        """The single-mask token's mask where it is stable, else the best of the others: (o, 1, h, w) and (o, 1)."""
        delta = self.config.dynamic_multimask_stability_delta
        single = masks[:, 0].flatten(1)
        inner, outer = (single > delta).sum(-1).float(), (single > -delta).sum(-1).float()
        stability = torch.where(outer > 0, inner / outer, 1.0)
        stable = stability >= self.config.dynamic_multimask_stability_thresh
        index = torch.where(stable, 0, 1 + ious[:, 1:].argmax(-1))
        rows = torch.arange(len(index), device=index.device)
        return masks[rows, index][:, None], ious[rows, index][:, None]
