"""The text tower: a CLIP-style causal transformer whose tokens, not a pooled vector, prompt the detector."""

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from ..configuration import Sam3TextConfig
from .layers import Attention, FeedForward, Linear

__all__ = ["TextTower"]


class TextEmbeddings(nn.Module):
    """Token plus position embedding."""

    def __init__(self, config: Sam3TextConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, input_ids: Tensor) -> Tensor:
        length, context = input_ids.shape[-1], self.position_embedding.num_embeddings
        if length > context:
            raise ValueError(
                f"input_ids has {length} tokens a phrase, the text tower's context is {context}; "
                "Sam3Processor truncates"
            )
        return self.token_embedding(input_ids) + self.position_embedding.weight[:length]


class TextLayer(GradientCheckpointingLayer):
    """Pre-norm causal transformer layer."""

    def __init__(self, config: Sam3TextConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = Attention(
            config,
            config.hidden_size,
            config.num_attention_heads,
            dropout=config.attention_dropout,
            output_name="out_proj",
        )
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = FeedForward(config.hidden_size, config.intermediate_size, config.hidden_act)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer_norm1(x)
        x = x + self.self_attn(y, y, y, causal=True)
        return x + self.mlp(self.layer_norm2(x))


class TextEncoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: Sam3TextConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config.num_hidden_layers))


class TextModel(nn.Module):
    """Embeddings, layers, final norm."""

    def __init__(self, config: Sam3TextConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.encoder = TextEncoder(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embeddings(input_ids)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.final_layer_norm(x)


class TextTower(nn.Module):
    """Token features (num_phrases, length, hidden_size).

    No padding mask is needed: padding stands behind the phrase, and no token sees a later one. `text_projection` is in
    every checkpoint (CLIP's pooled projection) but prompts nothing; it is kept so that checkpoints stay whole.
    """

    def __init__(self, config: Sam3TextConfig) -> None:
        super().__init__()
        self.text_model = TextModel(config)
        self.text_projection = Linear(config.hidden_size, config.projection_dim, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        if input_ids.dim() != 2 or input_ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                "input_ids must be integer token ids of shape (num_phrases, length), got "
                f"{input_ids.dtype} of shape {tuple(input_ids.shape)}"
            )
        return self.text_model(input_ids)
