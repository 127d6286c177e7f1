"""The vision tower: a plain windowed transformer on patches, and simple feature pyramids ("necks") on its last map."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ..configuration import Sam3VisionConfig, Sam3ViTConfig
from .layers import Attention, Conv2d, ConvTranspose2d, FeedForward, attend
from .outputs import Sam3VisionEncoderOutput
from .rotary import apply_rotary, axial_rotary

__all__ = ["VisionNeck", "VisionTower", "VisionTransformer"]


class PatchEmbeddings(nn.Module):
    """Patches projected to tokens; a class of its own for the name that checkpoints give it."""

    def __init__(self, config: Sam3ViTConfig) -> None:
        super().__init__()
        self.projection = Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size, bias=False
        )


class Embeddings(nn.Module):
    """Patch embedding plus a position table that is tiled, not stretched, from the size it was trained at."""

    def __init__(self, config: Sam3ViTConfig) -> None:
        super().__init__()
        self.patch_embeddings = PatchEmbeddings(config)
        self.table_side = config.pretrain_image_size // config.patch_size
        self.position_embeddings = nn.Parameter(torch.zeros(1, self.table_side**2, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(batch, grid, grid, channels) tokens of (batch, 3, side, side) pixels."""
        projection = self.patch_embeddings.projection
        tokens = projection(pixel_values.to(projection.weight.dtype)).permute(0, 2, 3, 1)
        height, width = tokens.shape[1:3]
        side = self.table_side
        table = self.position_embeddings.view(side, side, -1).tile(-(-height // side), -(-width // side), 1)
        return self.dropout(tokens + table[:height, :width])


class RotaryAttention(Attention):
    """Self-attention of (batch, length, channels) whose queries and keys are turned by their positions."""

    def turned(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        q = apply_rotary(self.split(self.q_proj(x)), cosine, sine)
        k = apply_rotary(self.split(self.k_proj(x)), cosine, sine)
        dropout = self.dropout if self.training else 0.0
        return self.merge(attend(q, k, self.split(self.v_proj(x)), self.config._attn_implementation, dropout=dropout))


def to_windows(x: Tensor, side: int) -> Tensor:
    """(batch·windows, side², channels) of (batch, height, width, channels), zero-padded to whole windows."""
    height, width = x.shape[1:3]
    x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
    x = x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)
    return x.flatten(0, 2).flatten(1, 2)


def from_windows(windows: Tensor, side: int, height: int, width: int) -> Tensor:
    """The inverse of `to_windows`: (batch, height, width, channels)."""
    rows, columns = -(-height // side), -(-width // side)
    x = windows.view(-1, rows, columns, side, side, windows.shape[-1]).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)[:, :height, :width]


class DropPath(nn.Module):
    """Drops a residual branch for whole samples (stochastic depth, Huang et al. 2016) in training; else nothing."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= self.rate
        return x * keep / (1 - self.rate)


class VisionLayer(GradientCheckpointingLayer):
    """Pre-norm transformer layer on a map; attention inside windows, or over the whole map when `window` is 0."""

    def __init__(self, config: Sam3ViTConfig, window: int, drop_path: float) -> None:
        super().__init__()
        self.window = window
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = RotaryAttention(
            config, config.hidden_size, config.num_attention_heads, dropout=config.attention_dropout
        )
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = FeedForward(config.hidden_size, config.intermediate_size, config.hidden_act, config.hidden_dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        y = self.layer_norm1(x)
        if self.window:
            y = from_windows(
                self.attention.turned(to_windows(y, self.window), cosine, sine), self.window, height, width
            )
        else:
            y = self.attention.turned(y.flatten(1, 2), cosine, sine).view_as(x)
        x = x + self.drop_path(y)
        return x + self.drop_path(self.mlp(self.layer_norm2(x)))


class VisionTransformer(nn.Module):
    """Patches → tokens → layers, most of them windowed: (batch, grid, grid, hidden_size)."""

    def __init__(self, config: Sam3ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        last = max(config.num_hidden_layers - 1, 1)
        self.layers = nn.ModuleList(
            VisionLayer(
                config, 0 if i in config.global_attn_indexes else config.window_size, config.drop_path_rate * i / last
            )
            for i in range(config.num_hidden_layers)
        )

    def forward(self, pixel_values: Tensor) -> Tensor:
        config = self.config
        x = self.layer_norm(self.embeddings(pixel_values))
        height, width = x.shape[1:3]
        head_dim = config.hidden_size // config.num_attention_heads
        in_window = axial_rotary(config.window_size, config.window_size, head_dim, config.rope_theta, device=x.device)
        # Global layers see the same range of positions as a window does ("interpolated" rotary positions).
        scale = config.window_size / height
        whole = axial_rotary(height, width, head_dim, config.rope_theta, scale, x.device)
        for layer in self.layers:
            x = layer(x, *(in_window if layer.window else whole))
        return x


class NeckLevel(nn.Module):
    """One level of the pyramid: resize by `scale`, then convolutions of 1 and 3 cells."""

    def __init__(self, in_channels: int, out_channels: int, scale: float) -> None:
        super().__init__()
        half, quarter = in_channels // 2, in_channels // 4
        layers: dict[float, list[nn.Module]] = {
            4.0: [ConvTranspose2d(in_channels, half, 2, 2), nn.GELU(), ConvTranspose2d(half, quarter, 2, 2)],
            2.0: [ConvTranspose2d(in_channels, half, 2, 2)],
            1.0: [],
            0.5: [nn.MaxPool2d(2, 2)],
        }
        if scale not in layers:
            raise ValueError(f"a neck level's scale must be one of {sorted(layers)}, got {scale}")
        self.scale_layers = nn.ModuleList(layers[scale])
        self.proj1 = Conv2d({4.0: quarter, 2.0: half}.get(scale, in_channels), out_channels, 1)
        self.proj2 = Conv2d(out_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.scale_layers:
            x = layer(x)
        return self.proj2(self.proj1(x))


class VisionNeck(nn.Module):
    """Simple feature pyramid (Li et al. 2022, ViTDet) on the transformer's map."""

    def __init__(self, config: Sam3VisionConfig) -> None:
        super().__init__()
        channels = config.backbone_config.hidden_size
        self.fpn_layers = nn.ModuleList(
            NeckLevel(channels, config.fpn_hidden_size, scale) for scale in config.scale_factors
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps of 4, 2 and 1 times the grid, each (batch, channels, height, width), of a (batch, grid, grid, C) map.

        The fourth level (half the grid) has weights in every checkpoint, but nothing reads it, so it is not computed.
        """
        x = x.permute(0, 3, 1, 2)
        return tuple(layer(x) for layer in self.fpn_layers[:3])


class VisionTower(nn.Module):
    """Transformer and one neck."""

    def __init__(self, config: Sam3VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = VisionTransformer(config.backbone_config)
        self.neck = VisionNeck(config)

    def check_pixels(self, pixel_values: Tensor) -> None:
        """Raises `ValueError` unless `pixel_values` is (batch, 3, side, side) of the size the model was built for."""
        side, channels = self.config.image_size, self.config.backbone_config.num_channels
        if pixel_values.dim() != 4 or tuple(pixel_values.shape[1:]) != (channels, side, side):
            raise ValueError(
                f"pixel_values must have shape (batch, {channels}, {side}, {side}), got {tuple(pixel_values.shape)}; "
                f"make them with Sam3Processor(size={{'height': {side}, 'width': {side}}}) or load the model with a "
                "config whose image_size is theirs"
            )
        if pixel_values.shape[0] == 0:
            raise ValueError("pixel_values holds a batch of 0 pictures; at least one is needed")

    def forward(self, pixel_values: Tensor) -> Sam3VisionEncoderOutput:
        self.check_pixels(pixel_values)
        tokens = self.backbone(pixel_values)
        return Sam3VisionEncoderOutput(last_hidden_state=tokens.flatten(1, 2), fpn_hidden_states=self.neck(tokens))
