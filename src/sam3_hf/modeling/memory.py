"""What lets the tracker remember objects: the encoder of memories, and attention to them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from ..configuration import Sam3TrackerConfig
from .layers import Attention, ChannelsFirstLayerNorm, Conv2d, Linear, attend
from .rotary import apply_rotary, axial_rotary

__all__ = ["MemoryAttention", "MemoryEncoder", "ObjectMemories"]


@dataclass(frozen=True)
class ObjectMemories:
    """What a batch of objects remembers, padded to the same length.

    Attributes:
        frames: (objects, num_frames, memory_channels, grid, grid) memories of frames.
        slots: (objects, num_frames) rows of the table of temporal positions: 0 the latest frame, the last row for
            frames that a prompt or a detection fixed.
        frames_valid: (objects, num_frames) False on padding; None: no padding.
        pointers: (objects, num_pointers, channels) object pointers of frames.
        ages: (objects, num_pointers) how long ago their frames were, as a part of the longest time.
        pointers_valid: (objects, num_pointers) as `frames_valid`.
    """

    frames: Tensor
    slots: Tensor
    frames_valid: Tensor | None
    pointers: Tensor
    ages: Tensor
    pointers_valid: Tensor | None


class MaskDownsamplerLayer(nn.Module):
    """Strided convolution, norm, activation."""

    def __init__(self, config: Sam3TrackerConfig, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(
            in_channels,
            out_channels,
            config.mask_downsampler_kernel_size,
            config.mask_downsampler_stride,
            config.mask_downsampler_padding,
        )
        self.layer_norm = ChannelsFirstLayerNorm(out_channels, eps=1e-6)
        self.activation = ACT2FN[config.mask_downsampler_hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.layer_norm(self.conv(x)))


class MaskDownsampler(nn.Module):
    """A mask brought down to the grid; channels grow as area shrinks."""

    def __init__(self, config: Sam3TrackerConfig) -> None:
        super().__init__()
        stride = config.mask_downsampler_stride
        count = round(math.log(config.mask_downsampler_total_stride, stride))
        channels = [stride ** (2 * i) for i in range(count + 1)]
        self.layers = nn.ModuleList(MaskDownsamplerLayer(config, channels[i], channels[i + 1]) for i in range(count))
        self.final_conv = Conv2d(channels[-1], config.mask_downsampler_embed_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.final_conv(x)


class FuserLayer(GradientCheckpointingLayer):
    """ConvNeXt block (Liu et al. 2022)."""

    def __init__(self, config: Sam3TrackerConfig) -> None:
        super().__init__()
        size, wide = config.memory_fuser_embed_dim, config.memory_fuser_intermediate_dim
        kernel, padding = config.memory_fuser_kernel_size, config.memory_fuser_padding
        self.depthwise_conv = Conv2d(size, size, kernel, padding=padding, groups=size)
        self.layer_norm = ChannelsFirstLayerNorm(size, eps=1e-6)
        self.pointwise_conv1 = Linear(size, wide)
        self.activation = ACT2FN[config.memory_fuser_hidden_act]
        self.pointwise_conv2 = Linear(wide, size)
        self.scale = nn.Parameter(torch.full((size,), config.memory_fuser_layer_scale_init_value))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer_norm(self.depthwise_conv(x)).movedim(1, -1)
        y = self.scale * self.pointwise_conv2(self.activation(self.pointwise_conv1(y)))
        return x + y.movedim(-1, 1)


class MemoryFuser(nn.Module):
    """The stack of blocks."""

    def __init__(self, config: Sam3TrackerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(FuserLayer(config) for _ in range(config.memory_fuser_num_layers))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """A frame's features and an object's mask → the memory kept of it: (objects, memory_channels, grid, grid)."""

    def __init__(self, config: Sam3TrackerConfig) -> None:
        super().__init__()
        size = config.memory_encoder_hidden_size
        self.mask_downsampler = MaskDownsampler(config)
        self.feature_projection = Conv2d(size, size, 1)
        self.memory_fuser = MemoryFuser(config)
        self.projection = Conv2d(size, config.memory_encoder_output_channels, 1)

    def forward(self, image: Tensor, masks: Tensor) -> Tensor:
        """Encodes.

        Args:
            image: (objects or 1, channels, grid, grid) map of the frame, without memory.
            masks: (objects, 1, 16·grid, 16·grid) sigmoid of the mask, scaled and shifted as the configuration says.
        """
        return self.projection(self.memory_fuser(self.feature_projection(image) + self.mask_downsampler(masks)))


class MemoryAttentionLayer(nn.Module):
    """Pre-norm layer: the frame attends to itself, then to the memories, both with rotary positions."""

    def __init__(self, config: Sam3TrackerConfig) -> None:
        super().__init__()
        size, heads = config.memory_attention_hidden_size, config.memory_attention_num_attention_heads
        inner, rate = size // config.memory_attention_downsample_rate, config.memory_attention_rope_dropout
        wide = config.memory_attention_feed_forward_hidden_size
        self.self_attn = Attention(config, size, heads, inner, dropout=rate)
        self.cross_attn_image = Attention(
            config, size, heads, inner, key_size=config.memory_encoder_output_channels, dropout=rate
        )
        self.linear1, self.linear2 = Linear(size, wide), Linear(wide, size)
        self.activation = ACT2FN[config.memory_attention_feed_forward_hidden_act]
        self.layer_norm1, self.layer_norm2, self.layer_norm3 = (nn.LayerNorm(size) for _ in range(3))
        self.dropout = nn.Dropout(config.memory_attention_dropout)

    def _rotary_attention(
        self,
        attention: Attention,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        angles: tuple[Tensor, Tensor],
        unturned: int,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Attention whose last `unturned` keys (object pointers) have no place in the picture and are not turned."""
        q = apply_rotary(attention.split(attention.q_proj(query)), *angles)
        k, v = attention.split(attention.k_proj(key)), attention.split(attention.v_proj(value))
        spatial = k.shape[2] - unturned
        frames = spatial // angles[0].shape[0]
        turned = apply_rotary(k[:, :, :spatial], *(a.repeat(frames, 1) for a in angles))
        k = torch.cat((turned, k[:, :, spatial:]), 2)
        dropout = attention.dropout if self.training else 0.0
        return attention.merge(attend(q, k, v, attention.config._attn_implementation, bias, dropout=dropout))

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        placed_memory: Tensor,
        angles: tuple[Tensor, Tensor],
        num_pointers: int,
        bias: Tensor | None,
    ) -> Tensor:
        y = self.layer_norm1(x)
        x = x + self.dropout(self._rotary_attention(self.self_attn, y, y, y, angles, 0))
        x = x.expand(len(memory), -1, -1)  # until here the same for all objects of a picture
        y = self.layer_norm2(x)
        attended = self._rotary_attention(self.cross_attn_image, y, placed_memory, memory, angles, num_pointers, bias)
        x = x + self.dropout(attended)
        y = self.dropout(self.activation(self.linear1(self.layer_norm3(x))))
        return x + self.dropout(self.linear2(y))


class MemoryAttention(nn.Module):
    """The frame's tokens after reading each object's memories: (objects, grid², channels)."""

    def __init__(self, config: Sam3TrackerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(MemoryAttentionLayer(config) for _ in range(config.memory_attention_num_layers))
        self.layer_norm = nn.LayerNorm(config.memory_attention_hidden_size)

    def forward(
        self,
        image: Tensor,
        position: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        num_pointers: int,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Reads memories.

        Args:
            image: (objects or 1, grid², channels); 1 where all objects are on the same picture.
            position: (grid², channels) sine position.
            memory: (objects, frames·grid² + num_pointers, memory_channels).
            memory_position: the same shape: sine and temporal position.
            num_pointers: how many of the last memory tokens are object pointers.
            bias: (objects, 1, 1, tokens) hides the memories that an object lacks; None: all have all.
        """
        config = self.config
        side = math.isqrt(image.shape[1])
        inner = config.memory_attention_hidden_size // config.memory_attention_downsample_rate
        head_dim = inner // config.memory_attention_num_attention_heads
        angles = axial_rotary(side, side, head_dim, config.memory_attention_rope_theta, device=image.device)
        x = image + 0.1 * position.to(image.dtype)
        placed = memory + memory_position
        for layer in self.layers:
            x = layer(x, memory, placed, angles, num_pointers, bias)
        return self.layer_norm(x)
