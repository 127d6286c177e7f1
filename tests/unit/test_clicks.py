"""Clicks in training: where they fall, what is learned from which mask, and that it can be learned."""

import pytest
import torch

from sam3_hf import Sam3Model, tiny_config
from sam3_hf.losses import object_loss
from sam3_hf.training.bundled_tracker import Clicks, only_tracker
from sam3_hf.training.clicks import click_loss, correction_clicks, random_points
from sam3_hf.training.seen import SeenPictures, objects_of_pictures


def square(side: int = 16, start: int = 4, end: int = 10) -> torch.Tensor:
    mask = torch.zeros(side, side, dtype=torch.bool)
    mask[start:end, start:end] = True
    return mask


def test_points_fall_into_their_masks() -> None:
    masks = torch.stack([square(), square(start=0, end=1)]).expand(50, 2, 16, 16)
    x, y = (random_points(masks) * 16).long().unbind(-1)
    assert masks.flatten(2).gather(2, (y * 16 + x)[..., None]).all()
    assert random_points(torch.zeros(3, 16, 16, dtype=torch.bool)).shape == (3, 2)


def test_corrections_name_missed_and_false_parts() -> None:
    wanted = torch.stack([square()] * 2)
    predicted = torch.stack([torch.zeros(16, 16, dtype=torch.bool), square(start=4, end=16)])
    points, labels = correction_clicks(predicted, wanted)
    assert labels.tolist() == [1, 0]
    assert (points[0] * 16).long().ge(4).all() and (points[0] * 16).long().lt(10).all()
    assert (points[1] * 16).max() >= 10


def test_only_the_best_mask_learns_and_every_iou_does() -> None:
    wanted = square()[None]
    good = (wanted.float() * 2 - 1)[:, None] * 4
    logits = torch.cat((good, -good, torch.zeros_like(good)), 1).requires_grad_()
    ious = torch.full((1, 3), 0.5, requires_grad=True)
    score = torch.zeros(1, 1, requires_grad=True)
    loss, terms = object_loss(logits, ious, score, wanted)
    loss.backward()
    assert logits.grad is not None and ious.grad is not None and score.grad is not None
    assert logits.grad[0, 0].abs().sum() > 0
    assert logits.grad[0, 1:].abs().sum() == 0
    assert (ious.grad != 0).all()
    # IoUs are 1, 0 and 0 (a logit of 0 is not in the mask): each is half wrong.
    assert terms["loss_iou"].item() == pytest.approx(0.5)
    assert loss.item() == pytest.approx(sum(terms.values()).item(), rel=1e-6)


def test_an_object_that_is_not_there_teaches_its_score_alone() -> None:
    logits = torch.randn(1, 3, 8, 8)
    _, terms = object_loss(logits, torch.rand(1, 3), torch.full((1, 1), 9.0), torch.zeros(1, 8, 8, dtype=torch.bool))
    assert terms["loss_object"].item() == pytest.approx(9.0, abs=1e-3)
    assert terms["loss_mask"] == terms["loss_dice"] == terms["loss_iou"] == 0
    with pytest.raises(ValueError, match="2 masks for 1 objects"):
        object_loss(logits, torch.rand(1, 3), torch.zeros(1, 1), torch.zeros(2, 8, 8, dtype=torch.bool))


def test_objects_are_told_picture_by_picture_and_once_each() -> None:
    empty = torch.zeros(1, 16, 16, dtype=torch.bool)
    labels = [{"masks": square()[None]}, {"masks": torch.cat((square()[None], empty))}, {"boxes": None}]
    first, second = objects_of_pictures(labels, torch.tensor([1, 1, 0]), 2)
    assert len(first) == 0
    assert second.equal(square()[None])  # two phrases name it, and the empty mask is of no object


def test_seen_pictures_keep_the_newest_and_come_with_their_own_objects() -> None:
    torch.manual_seed(0)
    seen = SeenPictures(capacity=3)
    with pytest.raises(ValueError, match="nothing to click on"):
        seen.draw(1, 1)
    nothing = torch.zeros(0, 1, 1, dtype=torch.bool)
    seen.add(torch.full((1, 4, 2), 9.0), [nothing])
    assert len(seen) == 0
    for number in range(5):  # picture n: tokens of n, objects that begin at n
        objects = torch.stack([square(start=number, end=number + 2), square(start=number, end=number + 5)])
        seen.add(torch.full((1, 4, 2), float(number)), [objects])
    tokens, masks = seen.draw(60, 3)
    assert tokens.shape == (60, 4, 2) and masks.shape == (60, 3, 16, 16)
    assert set(tokens[:, 0, 0].tolist()) == {2.0, 3.0, 4.0}
    assert masks.any(-1).float().argmax(-1).eq(tokens[:, 0, :1]).all()
    single = seen.draw(1, 1)[1]
    assert single.shape == (1, 1, 16, 16)


def test_linear_maps_learn_beside_the_masks_and_leave_no_hooks() -> None:
    torch.manual_seed(0)
    model = Sam3Model(tiny_config(image_size=112))
    clicks = Clicks(only_tracker(model))
    with torch.no_grad():
        tokens = model.get_vision_features(torch.randn(1, 3, 112, 112)).last_hidden_state
    loss, terms = clicks(tokens, square(32, 6, 20)[None, None], box=False)
    loss.backward()
    assert terms["loss_told"] > 0
    assert clicks.cell.weight.grad.abs().sum() > 0 and clicks.pixel.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in (*model.tracker_neck.parameters(), *model.detector_model.parameters()))
    decoder = model.tracker_model.mask_decoder
    assert not decoder.transformer._forward_hooks and not decoder.upscale_conv2._forward_hooks


@pytest.mark.parametrize("box", [False, True], ids=["point", "box"])
def test_clicks_can_be_learned(box: bool) -> None:
    torch.manual_seed(0)
    model = Sam3Model(tiny_config(image_size=112)).train()
    masks = torch.stack([square(32, 6, 20), torch.zeros(32, 32, dtype=torch.bool)])[None]
    with torch.no_grad():
        vision = model.get_vision_features(torch.randn(1, 3, 112, 112))
    learning = [p for part in (model.tracker_neck, model.tracker_model) for p in part.parameters()]
    optimizer = torch.optim.Adam(learning, 2e-3)
    losses = []
    for _ in range(12):
        loss, _ = click_loss(model, vision, masks, rounds=2, box=box)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.7 * losses[0]
