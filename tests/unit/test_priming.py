"""First weights of the bundled recipe: clicks look at the place that they are at."""

import torch

from sam3_hf import Sam3VideoTracker
from sam3_hf.training.bundled import bundled_config
from sam3_hf.training.priming import prime_clicks


def _share_nearby(tracker: Sam3VideoTracker, points: torch.Tensor) -> float:
    """Mean share of a point's attention that goes to cells within a tenth of the picture's side."""
    attention = tracker.mask_decoder.transformer.layers[0].cross_attn_token_to_image
    position = tracker.shared_image_embedding.grid(24, 24)
    queries = tracker.shared_image_embedding(points)
    q, k = (
        attention.split(attention.q_proj(queries)[None]),
        attention.split(attention.k_proj(position.flatten(2).transpose(1, 2))),
    )
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1).mean(1)[0]
    axis = (torch.arange(24) + 0.5) / 24
    cells = torch.stack((axis[None].expand(24, -1), axis[:, None].expand(-1, 24)), -1).view(-1, 2)
    near = (points[:, None] - cells[None]).norm(dim=-1) < 0.1
    return float((weights * near).sum(-1).mean())


def test_clicks_look_at_their_place() -> None:
    torch.manual_seed(0)
    tracker = Sam3VideoTracker(bundled_config(336).tracker_config, with_vision=False)
    points = 0.1 + 0.8 * torch.rand(50, 2)
    with torch.no_grad():
        before = _share_nearby(tracker, points)
        prime_clicks(tracker)
        after = _share_nearby(tracker, points)
    assert before < 0.05 and after > 5 * before
