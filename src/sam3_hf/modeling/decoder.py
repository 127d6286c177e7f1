"""The decoder: object queries and one presence token read the fused picture and refine boxes layer by layer."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ..configuration import Sam3DETRDecoderConfig
from .layers import Attention, FeedForward, Float32MLP, inverse_sigmoid, sine_position

__all__ = ["Decoder", "DecoderOutput"]

ALWAYS_PRESENT = 30.0  # sigmoid(30) is 1 in float32


@dataclass
class DecoderOutput:
    """What each decoder layer says, stacked over layers.

    Attributes:
        queries: (num_layers, num_rows, num_queries, channels), normalised; with DAC the copies follow the queries.
        boxes: (num_layers, num_rows, num_queries, 4) cxcywh in 0..1, float32.
        presence_logits: (num_layers, num_rows, 1) float32.
    """

    queries: Tensor
    boxes: Tensor
    presence_logits: Tensor


class DecoderLayer(GradientCheckpointingLayer):
    """Post-norm layer: queries attend to each other, to the prompt, and, biased by their boxes, to the picture."""

    def __init__(self, config: Sam3DETRDecoderConfig) -> None:
        super().__init__()
        size, heads = config.hidden_size, config.num_attention_heads
        self.self_attn = Attention(config, size, heads, dropout=config.dropout)
        self.self_attn_layer_norm = nn.LayerNorm(size)
        self.text_cross_attn = Attention(config, size, heads, dropout=config.dropout)
        self.text_cross_attn_layer_norm = nn.LayerNorm(size)
        self.vision_cross_attn = Attention(config, size, heads, dropout=config.dropout)
        self.vision_cross_attn_layer_norm = nn.LayerNorm(size)
        self.mlp = FeedForward(size, config.intermediate_size, config.hidden_act, config.dropout)
        self.mlp_layer_norm = nn.LayerNorm(size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        query_position: Tensor,
        prompt: Tensor,
        prompt_bias: Tensor | None,
        image: Tensor,
        image_with_position: Tensor,
        box_bias: Tensor,
        num_copies: int = 0,
    ) -> Tensor:
        # DAC's copies come last and attend to the prompt and the picture only, not to other queries.
        own = x[:, : x.shape[1] - num_copies]
        placed = own + query_position[:, : own.shape[1]]
        attended = own + self.dropout(self.self_attn(placed, placed, own))
        x = self.self_attn_layer_norm(torch.cat((attended, x[:, own.shape[1] :]), 1) if num_copies else attended)
        y = self.text_cross_attn(x + query_position, prompt, prompt, prompt_bias)
        x = self.text_cross_attn_layer_norm(x + self.dropout(y))
        y = self.vision_cross_attn(x + query_position, image_with_position, image, box_bias)
        x = self.vision_cross_attn_layer_norm(x + self.dropout(y))
        return self.mlp_layer_norm(x + self.dropout(self.mlp(x)))


class Decoder(nn.Module):
    """`num_queries` object queries, one presence token.

    The presence token stands first in the sequence; it has no box, so no position and no box bias. Its logit is not
    clamped: the reference's `clamp` to ±10 is not in place and has no effect (transformers does clamp).
    """

    def __init__(self, config: Sam3DETRDecoderConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.config = config
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.output_layer_norm = nn.LayerNorm(size)
        self.query_embed = nn.Embedding(config.num_queries, size)
        self.reference_points = nn.Embedding(config.num_queries, 4)
        self.presence_token = nn.Embedding(1, size)
        self.presence_layer_norm = nn.LayerNorm(size)
        self.presence_head = Float32MLP(size, size, size, 1)
        self.box_head = Float32MLP(size, size, size, 4)
        self.ref_point_head = Float32MLP(2 * size, size, size)
        # Training starts from boxes all over the picture, which the first layers leave as they are.
        self.reference_points.__dict__["holds_boxes"] = True
        self.box_head.get_submodule("layer3").__dict__["starts_at_zero"] = True
        self.box_rpb_embed_x = Float32MLP(2, size, config.num_attention_heads)
        self.box_rpb_embed_y = Float32MLP(2, size, config.num_attention_heads)

    def _query_position(self, boxes: Tensor) -> Tensor:
        """(rows, queries, channels) position of the queries from their boxes (conditional queries)."""
        x, y, w, h = boxes.unbind(-1)
        features = [sine_position(part, self.config.hidden_size // 2) for part in (y, x, w, h)]
        return self.ref_point_head(torch.cat(features, -1))

    def _axis_bias(self, low: Tensor, high: Tensor, size: int, embed: nn.Module) -> Tensor:
        """(rows, heads, queries, size) bias along one axis from signed log distances to the box's two edges."""
        cells = torch.arange(size, device=low.device, dtype=torch.float32) / size
        delta = 8 * torch.stack((cells - low[..., None], cells - high[..., None]), -1)
        delta = delta.sign() * torch.log2(delta.abs() + 1) / math.log2(8)
        return embed(delta).permute(0, 3, 1, 2)

    def _box_bias(self, boxes: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
        """(rows, heads, 1 + queries, height·width) attention bias relative to the boxes; 0 for the presence token."""
        x, y, w, h = boxes.unbind(-1)
        along_x = self._axis_bias(x - w / 2, x + w / 2, width, self.box_rpb_embed_x).to(dtype)
        along_y = self._axis_bias(y - h / 2, y + h / 2, height, self.box_rpb_embed_y).to(dtype)
        along_x, along_y = (F.pad(along, (0, 0, 1, 0)) for along in (along_x, along_y))
        return (along_y[..., :, None] + along_x[..., None, :]).flatten(-2)

    def _presence(self, token: Tensor) -> Tensor:
        """(rows, 1) presence logit; without presence head a constant that makes the probability 1."""
        if self.config.presence:
            return self.presence_head(self.presence_layer_norm(token))
        return torch.full((len(token), 1), ALWAYS_PRESENT, device=token.device)

    def forward(
        self,
        image: Tensor,
        position: Tensor,
        map_size: tuple[int, int],
        prompt: Tensor,
        prompt_bias: Tensor | None,
        dac: bool = False,
        starts: Tensor | None = None,
    ) -> DecoderOutput:
        """Decodes rows.

        Args:
            image: (rows, height·width, channels) fused picture tokens.
            position: (height·width, channels) their sine position.
            map_size: (height, width) of the map.
            prompt: (rows, length, channels).
            prompt_bias: (rows, 1, 1, length) hides padding, or None.
            dac: append a copy of every query, to be matched one-to-many in training (Hu et al. 2023, DAC-DETR).
            starts: (rows, num_copies, 4) cxcywh in 0..1 where copies of the first queries start; None: all queries
                have a copy, which starts where they do.
        """
        num_rows, dtype = image.shape[0], image.dtype
        num_copies = (self.config.num_queries if starts is None else starts.shape[1]) if dac else 0
        copies = [self.query_embed.weight[:num_copies]] if dac else []
        x = torch.cat((self.presence_token.weight, self.query_embed.weight, *copies)).expand(num_rows, -1, -1)
        boxes = self.reference_points.weight.float().sigmoid()
        boxes = (boxes.repeat(2, 1) if dac else boxes)[None]  # the first layer's are the same for all rows
        if starts is not None:
            boxes = torch.cat((boxes[:, : self.config.num_queries].expand(num_rows, -1, -1), starts), 1)
        image_with_position = image + position.to(dtype)
        # Added to attention's logits, which autocast has in its own dtype.
        device = image.device.type
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        bias_dtype = torch.get_autocast_dtype(device) if autocast else dtype
        queries, all_boxes, presence = [], [], []
        for layer in self.layers:
            query_position = F.pad(self._query_position(boxes).to(dtype), (0, 0, 1, 0))
            box_bias = self._box_bias(boxes, *map_size, bias_dtype)
            x = layer(x, query_position, prompt, prompt_bias, image, image_with_position, box_bias, num_copies)
            normed = self.output_layer_norm(x[:, 1:])
            refined = (inverse_sigmoid(boxes) + self.box_head(normed)).sigmoid()
            queries.append(normed)
            all_boxes.append(refined)
            presence.append(self._presence(x[:, 0]))
            boxes = refined.detach()
        return DecoderOutput(torch.stack(queries), torch.stack(all_boxes), torch.stack(presence))
