"""The fusion encoder: picture tokens learn what the prompt asks for."""

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ..configuration import Sam3DETREncoderConfig
from .layers import Attention, FeedForward

__all__ = ["FusionEncoder"]


class FusionLayer(GradientCheckpointingLayer):
    """Pre-norm layer: picture attends to itself (with position), then to the prompt."""

    def __init__(self, config: Sam3DETREncoderConfig) -> None:
        super().__init__()
        size, heads = config.hidden_size, config.num_attention_heads
        self.layer_norm1 = nn.LayerNorm(size)
        self.self_attn = Attention(config, size, heads, dropout=config.dropout)
        self.layer_norm2 = nn.LayerNorm(size)
        self.cross_attn = Attention(config, size, heads, dropout=config.dropout)
        self.layer_norm3 = nn.LayerNorm(size)
        self.mlp = FeedForward(size, config.intermediate_size, config.hidden_act, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def attend_to_itself(self, x: Tensor, position: Tensor) -> Tensor:
        """The layer's first third, which does not know the prompt yet."""
        y = self.layer_norm1(x)
        with_position = y + position
        return x + self.dropout(self.self_attn(with_position, with_position, y))

    def forward(self, x: Tensor, position: Tensor | None, prompt: Tensor, prompt_bias: Tensor | None) -> Tensor:
        if position is not None:
            x = self.attend_to_itself(x, position)
        x = x + self.dropout(self.cross_attn(self.layer_norm2(x), prompt, prompt, prompt_bias))
        return x + self.dropout(self.mlp(self.layer_norm3(x)))


class FusionEncoder(nn.Module):
    """Picture tokens conditioned on each row's prompt: (num_rows, height·width, channels)."""

    def __init__(self, config: Sam3DETREncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(FusionLayer(config) for _ in range(config.num_layers))

    def begin(self, image: Tensor, position: Tensor) -> Tensor:
        """Picture tokens (num_images, height·width, channels) after the first self-attention.

        That attention knows nothing of the prompt, so it runs once per picture, not once per row.

        Args:
            image: (num_images, height·width, channels) tokens of the pictures.
            position: (height·width, channels) sine position.
        """
        first = self.layers[0]
        assert isinstance(first, FusionLayer)
        return first.attend_to_itself(image, position.to(image.dtype))

    def forward(self, begun: Tensor, position: Tensor, prompt: Tensor, prompt_bias: Tensor | None) -> Tensor:
        """Encodes rows.

        Args:
            begun: (num_rows, height·width, channels), what `begin` returned for each row's picture.
            position: (height·width, channels) sine position.
            prompt: (num_rows, length, channels).
            prompt_bias: (num_rows, 1, 1, length) hides padding, or None.
        """
        position = position.to(begun.dtype)
        x = begun
        for i, layer in enumerate(self.layers):
            x = layer(x, position if i else None, prompt, prompt_bias)
        return x
