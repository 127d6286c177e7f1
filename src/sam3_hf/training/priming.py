"""First weights that spare a small model the longest part of training from scratch: finding out where to look.

A DETR learns slowly because its queries attend everywhere until they have learned to attend near their boxes (Meng et
al. 2021, Conditional DETR). Here the box-relative attention bias is fitted to a local pattern before training begins,
and the table of positions starts from sines, so that features say where they are. The tracker's attentions begin by
comparing positions, and its memories as the frames that they are of. Everything is trained on from there, but for the
tracker's neck.
"""

import math

import torch
from torch import Tensor, nn

from ..modeling import Sam3Detector, Sam3Model
from ..modeling.layers import Attention, sine_grid
from ..modeling.mask_decoder import TwoWayLayer
from ..modeling.memory import MemoryAttentionLayer
from ..modeling.outputs import Sam3VisionEncoderOutput
from ..modeling.vision_tower import NeckLevel

__all__ = ["prime_detector", "prime_memory", "prime_tracker"]

_FAR = -6.0  # least bias: e⁻⁶ of the attention that the best place gets
_SINE_SIZE = 1.75  # of the sines that are added to the table of positions


def prime_detector(detector: Sam3Detector, steps: int = 800) -> float:
    """The mean squared error that is left of the pattern; makes the decoder's attention local and positions known."""
    decoder = detector.detr_decoder
    with torch.no_grad():
        embeddings = detector.vision_encoder.backbone.embeddings
        side = embeddings.table_side
        table = sine_grid(side, side, embeddings.position_embeddings.shape[-1], embeddings.position_embeddings.device)
        embeddings.position_embeddings.add_(_SINE_SIZE * table.flatten(0, 1)[None])
    return max(_fit(embed, steps) for embed in (decoder.box_rpb_embed_x, decoder.box_rpb_embed_y))


def _pattern(low: Tensor, high: Tensor, num_heads: int) -> Tensor:
    """Bias (..., num_heads) at signed distances to a box's two edges: inside, near one edge, near the other, around."""
    length = (low - high).clamp(min=1e-3)
    outside = torch.relu(-low) + torch.relu(high)
    patterns = (
        -2 * outside / (0.5 * length + 0.02),
        -low.abs() / (0.25 * length + 0.03),
        -high.abs() / (0.25 * length + 0.03),
        -(low + high).abs() / (2 * length + 0.2),
    )
    return torch.stack([patterns[head % len(patterns)] for head in range(num_heads)], -1).clamp(min=_FAR)


def _fit(embed: nn.Module, steps: int) -> float:
    """Fits one axis's network, which reads signed log distances as `Decoder._axis_bias` makes them."""
    generator = torch.Generator().manual_seed(0)
    device = next(embed.parameters()).device
    optimizer = torch.optim.Adam(embed.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    error = torch.zeros(())
    for _ in range(steps):
        cells, centres, sizes = torch.rand(3, 4096, generator=generator)
        lengths = 0.03 * 20**sizes  # 3 to 60 % of the picture
        low, high = cells - centres + lengths / 2, cells - centres - lengths / 2
        delta = 8 * torch.stack((low, high), -1)
        delta = delta.sign() * torch.log2(delta.abs() + 1) / 3
        with torch.enable_grad():
            predicted = embed(delta.to(device))
            error = (predicted - _pattern(low, high, predicted.shape[-1]).to(device)).square().mean()
            error.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    return float(error.detach())


_COARSE_STD = 0.3  # of the map that the click's position is added to, whose own size is 0.7
_SHARPNESS = 2.0  # of attention from a click to the cells around it, and back
_LIKENESS = 1.5  # how strongly a frame's cells look for memories like them
_TOKEN_STD = 0.3  # of embeddings, and of what comes out of the two-way layers' norms
_CYCLES = (0.25, 6.0)  # frequencies of positions, in cycles over half of the picture's side


@torch.no_grad()
def prime_tracker(model: Sam3Model, tokens: Tensor) -> None:
    """Makes the tracker begin anew, with clicks that find their place.

    With plain random weights the mask decoder cannot tell for hundreds of steps where a click is: the neck's maps have
    channels of mean 12 and deviation 6 beside positions of size 0.7, positions closer than a tenth of the picture look
    the same, and what a click changes drowns. So the neck's maps are centred and scaled (in its last convolutions),
    positions get frequencies from coarse to fine, and the two-way attentions begin by comparing positions.

    Args:
        model: its tracker and the tracker's neck are changed in place.
        tokens: (num_pictures, cells, channels) of the vision tower, of some pictures as it will see them.
    """
    tracker, neck = model.tracker_model, model.tracker_neck
    for module in tracker.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding | nn.LayerNorm):
            module.reset_parameters()
    neck.load_state_dict(model.detector_model.vision_encoder.neck.state_dict())
    maps = model.get_tracker_maps(Sam3VisionEncoderOutput(last_hidden_state=tokens))
    for level, seen, size in zip(neck.fpn_layers, maps, (1.0, 1.0, _COARSE_STD), strict=False):
        assert isinstance(level, NeckLevel)
        factor = size / seen.std((0, 2, 3)).clamp(min=1e-3)
        level.proj2.weight.mul_(factor[:, None, None, None])
        assert level.proj2.bias is not None
        level.proj2.bias.sub_(seen.mean((0, 2, 3))).mul_(factor)

    table = _spiral(tracker.shared_image_embedding.get_buffer("positional_embedding"))
    for place in (tracker.shared_image_embedding, tracker.prompt_encoder.shared_embedding):
        place.get_buffer("positional_embedding").copy_(table)

    decoder, prompts = tracker.mask_decoder, tracker.prompt_encoder
    own = (decoder.obj_score_token, decoder.iou_token, decoder.mask_tokens)
    for embedding in (*own, prompts.point_embed, prompts.not_a_point_embed, prompts.no_mask_embed):
        embedding.weight.normal_(0, _TOKEN_STD)
    for layer in decoder.transformer.layers:
        assert isinstance(layer, TwoWayLayer)
        for norm in (layer.layer_norm1, layer.layer_norm2, layer.layer_norm3, layer.layer_norm4):
            norm.weight.fill_(_TOKEN_STD)
        for attention in (layer.self_attn, layer.cross_attn_token_to_image, layer.cross_attn_image_to_token):
            _pass_on(attention.v_proj)
            _pass_on(attention.get_submodule("o_proj"))
        _pass_on(layer.self_attn.q_proj, 1.2)  # tokens begin as they are
        _pass_on(layer.self_attn.k_proj, 1.2)
        _compare_positions(layer.cross_attn_token_to_image)
        _compare_positions(layer.cross_attn_image_to_token)
    _compare_positions(decoder.transformer.final_attn_token_to_image)


@torch.no_grad()
def prime_memory(model: Sam3Model) -> None:
    """Makes the tracker's memory begin anew, as a picture's own map with its objects' masks on it.

    Memories keep the map they are of, with the mask added; a later frame compares its map with theirs, adds what it
    finds, and gives the mask decoder a map of the size that clicks have taught it.
    """
    tracker = model.tracker_model
    encoder, attention = tracker.memory_encoder, tracker.memory_attention
    for module in (*encoder.modules(), *attention.modules()):
        if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm):
            module.reset_parameters()
    _pass_on(encoder.feature_projection)
    _pass_on(encoder.projection)
    for layer in attention.layers:
        assert isinstance(layer, MemoryAttentionLayer)
        for linear, factor in (
            (layer.cross_attn_image.q_proj, _LIKENESS),
            (layer.cross_attn_image.k_proj, _LIKENESS),
            (layer.cross_attn_image.v_proj, 1.0),
            (layer.cross_attn_image.get_submodule("o_proj"), 1.0),
        ):
            _pass_on(linear, factor)
        layer.self_attn.get_submodule("o_proj").get_parameter("weight").mul_(0.3)
        layer.linear2.weight.mul_(0.3)
    attention.layer_norm.weight.fill_(_COARSE_STD)


def _spiral(like: Tensor) -> Tensor:
    """Frequencies (2, count), evenly spaced in logarithm, each turned by the golden angle against the one before."""
    count = like.shape[1]
    size = torch.linspace(math.log(_CYCLES[0]), math.log(_CYCLES[1]), count, device=like.device).exp()
    angle = torch.arange(count, device=like.device) * (math.pi * (3 - 5**0.5))
    return torch.stack((size * angle.cos(), size * angle.sin()))


def _pass_on(layer: nn.Module, factor: float = 1.0) -> None:
    """The identity times a factor, and a little of what was there; convolutions are of one cell."""
    weight = layer.get_parameter("weight")
    weight.mul_(0.3).add_(factor * torch.eye(*weight.shape[:2], device=weight.device).view(weight.shape))


def _compare_positions(attention: Attention) -> None:
    """Queries and keys that are the positions themselves: each head gets sines and cosines of coarse and fine ones."""
    inner, size = attention.q_proj.weight.shape
    heads, count = attention.num_heads, size // 2
    order: list[int] = []
    for head in range(heads):
        frequencies = [(head + heads * i) % count for i in range(inner // heads // 2)]
        order += frequencies + [count + i for i in frequencies]
    for linear in (attention.q_proj, attention.k_proj):
        linear.weight.mul_(0.3)
        linear.weight[torch.arange(inner), torch.tensor(order)] += _SHARPNESS
