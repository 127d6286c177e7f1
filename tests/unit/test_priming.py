"""First weights of the bundled model's tracker: a click finds its place before anything is trained."""

from statistics import median

import torch

from sam3_hf import Sam3Model
from sam3_hf.modeling.memory import ObjectMemories
from sam3_hf.modeling.outputs import Sam3VisionEncoderOutput
from sam3_hf.training.bundled import bundled_config
from sam3_hf.training.priming import prime_memory, prime_tracker


def _seen(tokens: torch.Tensor) -> Sam3VisionEncoderOutput:
    return Sam3VisionEncoderOutput(last_hidden_state=tokens)


def model_and_tokens(seed: int = 0) -> tuple[Sam3Model, torch.Tensor]:
    torch.manual_seed(seed)
    model = Sam3Model(bundled_config(112)).eval()
    # As a trained tower's: an offset in each channel that is larger than what the cells differ by.
    return model, torch.randn(4, 64, 192) + 10 * torch.randn(192)


@torch.no_grad()
def attention_at_the_click(model: Sam3Model, tokens: torch.Tensor) -> float:
    """The least part, over heads, of a click's first attention to the picture that falls on its 3 x 3 cells."""
    maps = model.get_image_embeddings(vision_embeds=_seen(tokens[:1]))
    attention = model.tracker_model.mask_decoder.transformer.layers[0].cross_attn_token_to_image
    looked = []

    def look(module: torch.nn.Module, args: tuple[torch.Tensor, ...], _out: torch.Tensor) -> None:
        q, k = module.split(module.q_proj(args[0])), module.split(module.k_proj(args[1]))
        looked.append((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1))

    hook = attention.register_forward_hook(look)
    model.segment_objects(image_embeddings=maps, input_points=torch.tensor([[[[35.0, 77.0]]]]))  # cell 2 of row 5
    hook.remove()
    [weights] = looked
    click = weights[0, :, 6].unflatten(-1, (8, 8))  # after the object score's token, the IoU's and four masks'
    return float(click[:, 4:7, 1:4].sum((1, 2)).min())


def test_a_click_finds_its_place_in_a_primed_tracker_only() -> None:
    model, tokens = model_and_tokens()
    assert attention_at_the_click(model, tokens) < 0.25  # 9 of 64 cells are 0.14
    prime_tracker(model, tokens)
    assert attention_at_the_click(model, tokens) > 0.5


def test_a_primed_neck_gives_centred_maps_of_one_size() -> None:
    model, tokens = model_and_tokens()
    prime_tracker(model, tokens)
    for level, size in zip(model.get_tracker_maps(_seen(tokens)), (1.0, 1.0, 0.3), strict=True):
        torch.testing.assert_close(level.mean((0, 2, 3)), torch.zeros(64), atol=1e-3, rtol=0)
        torch.testing.assert_close(level.std((0, 2, 3)), torch.full((64,), size), atol=1e-3, rtol=0)


@torch.no_grad()
def remembered_where_it_looks_alike(seed: int) -> float:
    """How much more the map that the decoder gets changes on the remembered object than far from it."""
    model, tokens = model_and_tokens(seed)
    prime_tracker(model, tokens)
    prime_memory(model)
    tracker = model.tracker_model
    frame = tracker.frame_maps(tuple(m[:1] for m in model.get_tracker_maps(_seen(tokens))))
    mask = torch.zeros(1, 128, 128)
    mask[:, :48, :48] = 1
    maps = []
    for shown in (mask, torch.zeros_like(mask)):
        memory = tracker.remember(frame, shown * 20 - 10, torch.tensor([True]))
        remembered = ObjectMemories(
            memory[:, None], torch.zeros(1, 1, dtype=torch.long), None, torch.zeros(1, 0, 64), torch.zeros(1, 0), None
        )
        maps.append(tracker.recall(frame.coarse, remembered))
    assert 0.2 < maps[0].std() < 0.4
    change = (maps[0] - maps[1]).norm(dim=1)[0]
    return float(change[:3, :3].mean() / change[4:, 4:].mean())


def test_a_primed_memory_looks_for_cells_like_its_own() -> None:
    # Random towers differ much (1 to 13 in ten draws).
    assert median(remembered_where_it_looks_alike(seed) for seed in range(5)) > 3
