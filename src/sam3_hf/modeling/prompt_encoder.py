"""Clicks, object boxes and masks of single objects as tokens and maps for the mask decoder."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from ..configuration import Sam3TrackerPromptEncoderConfig
from .layers import ChannelsFirstLayerNorm, Conv2d

__all__ = ["PromptEncoder", "RandomPosition"]

NOT_A_POINT = -1
PADDING_LABEL = -10  # how transformers marks padding at the door


class RandomPosition(nn.Module):
    """Random Fourier features of points: (..., 2·num_features) (Tancik et al. 2020)."""

    def __init__(self, num_features: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("positional_embedding", scale * torch.randn(2, num_features))

    def forward(self, xy: Tensor) -> Tensor:
        """`xy` (..., 2) in 0..1; computed in float32, returned in the buffer's dtype."""
        table = self.get_buffer("positional_embedding")
        angle = (2 * xy.float() - 1) @ table.float() * (2 * math.pi)
        return torch.cat((angle.sin(), angle.cos()), -1).to(table.dtype)

    def grid(self, height: int, width: int) -> Tensor:
        """Position of a map's cell centres: (1, 2·num_features, height, width)."""
        device = self.get_buffer("positional_embedding").device
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) / height
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) / width
        xy = torch.stack((x[None].expand(height, -1), y[:, None].expand(-1, width)), -1)
        return self(xy).permute(2, 0, 1)[None]


class MaskEmbedding(nn.Module):
    """Mask logits at 4 times the grid → a map of the grid's size."""

    def __init__(self, config: Sam3TrackerPromptEncoderConfig) -> None:
        super().__init__()
        few, many, eps = config.mask_input_channels // 4, config.mask_input_channels, config.layer_norm_eps
        self.conv1 = Conv2d(1, few, 2, 2)
        self.layer_norm1 = ChannelsFirstLayerNorm(few, eps=eps)
        self.conv2 = Conv2d(few, many, 2, 2)
        self.layer_norm2 = ChannelsFirstLayerNorm(many, eps=eps)
        self.conv3 = Conv2d(many, config.hidden_size, 1)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, masks: Tensor) -> Tensor:
        x = self.activation(self.layer_norm1(self.conv1(masks)))
        return self.conv3(self.activation(self.layer_norm2(self.conv2(x))))


class PromptEncoder(nn.Module):
    """Sparse tokens and a dense map for each object."""

    def __init__(self, config: Sam3TrackerPromptEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.shared_embedding = RandomPosition(config.hidden_size // 2, config.scale)
        self.mask_embed = MaskEmbedding(config)
        self.no_mask_embed = nn.Embedding(1, config.hidden_size)
        self.point_embed = nn.Embedding(config.num_point_embeddings, config.hidden_size)
        self.not_a_point_embed = nn.Embedding(1, config.hidden_size)

    def _embed(self, xy: Tensor, labels: Tensor) -> Tensor:
        """(objects, count, channels) of pixel coordinates (objects, count, 2) and labels in {-1, 0, 1, 2, 3}."""
        position = self.shared_embedding((xy.float() + 0.5) / self.config.image_size)  # centre of the pixel
        placed = position + self.point_embed(labels.clamp(min=0))
        return torch.where((labels == NOT_A_POINT)[..., None], self.not_a_point_embed.weight, placed)

    def forward(
        self, points: Tensor | None, labels: Tensor | None, boxes: Tensor | None, masks: Tensor | None, num_objects: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (objects, count, channels), which are valid (objects, count), dense map (objects or 1, channels, ...).

        Args:
            points: (objects, count, 2) xy in model pixels.
            labels: (objects, count): 1 on the object, 0 off it, -1 not a point, -10 padding.
            boxes: (objects, 4) xyxy in model pixels; the corners are points with labels 2 and 3.
            masks: (objects, h, w) logits of a previous answer; resized to 4 times the grid if they are not.
            num_objects: objects, also when there is no prompt but masks.
        """
        device = self.point_embed.weight.device
        # One "not a point" token always closes the list (SAM pads prompts without a box with it; so does transformers).
        xy = [torch.zeros(num_objects, 1, 2, device=device)]
        kind = [torch.full((num_objects, 1), NOT_A_POINT, device=device)]
        if boxes is not None:
            xy.insert(0, boxes.float().unflatten(-1, (2, 2)))
            kind.insert(0, torch.tensor([[2, 3]], device=device).expand(num_objects, -1))
        if points is not None:
            assert labels is not None
            xy.insert(0, points.float())
            kind.insert(0, labels)
        all_labels = torch.cat([k.long() for k in kind], 1)
        valid = all_labels != PADDING_LABEL
        tokens = self._embed(torch.cat(xy, 1), all_labels)
        return tokens, valid, self._dense(masks)

    def _dense(self, masks: Tensor | None) -> Tensor:
        side = self.config.grid_size
        if masks is None:
            return self.no_mask_embed.weight.view(1, -1, 1, 1)
        masks = masks[:, None]
        if masks.shape[-2:] != (4 * side, 4 * side):
            masks = F.interpolate(masks.float(), (4 * side, 4 * side), mode="bilinear", antialias=True)
        return self.mask_embed(masks.to(self.point_embed.weight.dtype))
