"""The exemplar ("geometry") encoder: boxes and points on the picture become prompt tokens."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..configuration import Sam3GeometryEncoderConfig
from ..ops.roi_align import roi_align
from .layers import Attention, Conv2d, FeedForward, Linear, key_padding_bias, sine_position

__all__ = ["ExemplarEncoder", "Exemplars"]

PADDING_LABEL = -10  # how transformers marks padding at the door


@dataclass
class Exemplars:
    """Example boxes or points of each row, with a mask instead of padding labels.

    Attributes:
        coordinates: (num_rows, count, 4) cxcywh or (num_rows, count, 2) xy, fractions of the picture, float32.
        positive: (num_rows, count) 1 where the example shows the concept, 0 where it does not.
        valid: (num_rows, count) False on padding.
    """

    coordinates: Tensor
    positive: Tensor
    valid: Tensor

    def __getitem__(self, rows: slice) -> "Exemplars":
        """The exemplars of some rows."""
        return Exemplars(self.coordinates[rows], self.positive[rows], self.valid[rows])

    @classmethod
    def from_padded(cls, coordinates: Tensor, labels: Tensor | None, name: str) -> "Exemplars":
        """Exemplars from tensors padded as transformers does (label -10); `ValueError` on bad shapes or labels."""
        size = 4 if name == "input_boxes" else 2
        if coordinates.dim() != 3 or coordinates.shape[-1] != size:
            raise ValueError(f"{name} must have shape (num_rows, count, {size}), got {tuple(coordinates.shape)}")
        if labels is None:
            labels = torch.ones(coordinates.shape[:2], dtype=torch.long, device=coordinates.device)
        if labels.shape != coordinates.shape[:2]:
            raise ValueError(
                f"{name}_labels must have one label per entry, shape {tuple(coordinates.shape[:2])}, got "
                f"{tuple(labels.shape)}"
            )
        if not torch.isin(labels, torch.tensor([0, 1, PADDING_LABEL], device=labels.device)).all():
            raise ValueError(
                f"{name}_labels may be 1 (positive), 0 (negative) or {PADDING_LABEL} (padding), got "
                f"{sorted(set(labels.flatten().tolist()))}"
            )
        valid = labels != PADDING_LABEL
        # Padded entries get harmless coordinates: they are masked out, but must not produce infinities on the way.
        return cls(coordinates.float().masked_fill(~valid[..., None], 0.5), labels.clamp(min=0), valid)


class ExemplarLayer(nn.Module):
    """Pre-norm layer: prompt tokens attend to each other, then to the picture."""

    def __init__(self, config: Sam3GeometryEncoderConfig) -> None:
        super().__init__()
        size, heads = config.hidden_size, config.num_attention_heads
        self.layer_norm1 = nn.LayerNorm(size)
        self.self_attn = Attention(config, size, heads, dropout=config.dropout)
        self.layer_norm2 = nn.LayerNorm(size)
        self.cross_attn = Attention(config, size, heads, dropout=config.dropout)
        self.layer_norm3 = nn.LayerNorm(size)
        self.mlp = FeedForward(size, config.intermediate_size, config.hidden_act, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor | None, image: Tensor, image_with_position: Tensor) -> Tensor:
        y = self.layer_norm1(x)
        x = x + self.dropout(self.self_attn(y, y, y, bias))
        y = self.layer_norm2(x)
        x = x + self.dropout(self.cross_attn(y, image_with_position, image))
        return x + self.dropout(self.mlp(self.layer_norm3(x)))


class ExemplarEncoder(nn.Module):
    """Prompt tokens of each row's points, boxes and one CLS token, after attention to the picture.

    A box's token is the sum of linear(cxcywh), its RoI-pooled features, linear(sine(centre), height, width) and a label
    embedding; a point's of linear(xy), the features under it, linear(sine(xy)) and a label embedding. The CLS token is
    there even when a row has no exemplar at all, as in the reference (transformers leaves it out then).
    """

    def __init__(self, config: Sam3GeometryEncoderConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.config = config
        self.label_embed = nn.Embedding(2, size)
        self.cls_embed = nn.Embedding(1, size)
        self.boxes_direct_project = Linear(4, size)
        self.boxes_pool_project = Conv2d(size, size, config.roi_size)
        self.boxes_pos_enc_project = Linear(size + 2, size)
        if config.exemplar_points:
            self.points_direct_project = Linear(2, size)
            self.points_pool_project = Linear(size, size)
            self.points_pos_enc_project = Linear(size, size)
        self.vision_layer_norm = nn.LayerNorm(size)
        self.final_proj = Linear(size, size)
        self.prompt_layer_norm = nn.LayerNorm(size)
        self.layers = nn.ModuleList(ExemplarLayer(config) for _ in range(config.num_layers))
        self.output_layer_norm = nn.LayerNorm(size)

    def _embed_boxes(self, boxes: Exemplars, image: Tensor) -> Tensor:
        """(rows, count, channels) embedding of boxes; `image` is the normalised map (rows, channels, height, width)."""
        dtype, (height, width) = image.dtype, image.shape[-2:]
        x, y, w, h = boxes.coordinates.unbind(-1)
        corners = torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), -1)
        pooled = roi_align(image, corners * corners.new_tensor([width, height, width, height]), self.config.roi_size)
        half = self.config.hidden_size // 2
        position = torch.cat((sine_position(y, half), sine_position(x, half), h[..., None], w[..., None]), -1)
        return (
            self.boxes_direct_project(boxes.coordinates.to(dtype))
            + self.boxes_pool_project(pooled.flatten(0, 1)).view(*pooled.shape[:2], -1)
            + self.boxes_pos_enc_project(position.to(dtype))
            + self.label_embed(boxes.positive)
        )

    def _embed_points(self, points: Exemplars, image: Tensor) -> Tensor:
        """(rows, count, channels) embedding of points."""
        if not self.config.exemplar_points:
            raise ValueError(
                "this checkpoint has no weights for point exemplars (`geometry_encoder.points_*`): the hub's "
                "safetensors lack them, the original sam3.pt has them. Use boxes, or convert sam3.pt with "
                "`sam3-hf convert sam3.pt DIRECTORY` and load that"
            )
        dtype = image.dtype
        grid = (points.coordinates * 2 - 1)[:, :, None]
        sampled = F.grid_sample(image.float(), grid, align_corners=False)[..., 0].transpose(1, 2).to(dtype)
        x, y = points.coordinates.unbind(-1)
        half = self.config.hidden_size // 2
        position = torch.cat((sine_position(x, half), sine_position(y, half)), -1)  # x first, unlike boxes
        return (
            self.points_direct_project(points.coordinates.to(dtype))
            + self.points_pool_project(sampled)
            + self.points_pos_enc_project(position.to(dtype))
            + self.label_embed(points.positive)
        )

    def forward(
        self, image: Tensor, image_position: Tensor, boxes: Exemplars | None, points: Exemplars | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens (rows, 1 + points + boxes, channels) and which of them are valid (rows, 1 + points + boxes).

        Args:
            image: (rows, channels, height, width) coarsest map of the detector's neck.
            image_position: (height·width, channels) its sine position.
            boxes: example boxes, or None.
            points: example points, or None.
        """
        normed = self.vision_layer_norm(image.movedim(1, -1)).movedim(-1, 1)
        num_rows = image.shape[0]
        tokens = [self.cls_embed.weight.expand(num_rows, 1, -1)]
        valid = [torch.ones(num_rows, 1, dtype=torch.bool, device=image.device)]
        if points is not None:
            tokens.append(self._embed_points(points, normed))
            valid.append(points.valid)
        if boxes is not None:
            tokens.append(self._embed_boxes(boxes, normed))
            valid.append(boxes.valid)
        x, is_valid = torch.cat(tokens, 1), torch.cat(valid, 1)
        x = self.prompt_layer_norm(self.final_proj(x))
        flat = image.flatten(2).transpose(1, 2)
        with_position = flat + image_position.to(flat.dtype)
        bias = None if len(tokens) == 1 else key_padding_bias(is_valid, x.dtype)
        for layer in self.layers:
            x = layer(x, bias, flat, with_position)
        return self.output_layer_norm(x), is_valid
