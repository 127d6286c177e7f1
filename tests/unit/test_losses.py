"""Losses: what labels may look like, what is counted, and that cutting a batch into pieces changes no gradient."""

from copy import deepcopy
from typing import Any

import pytest
import torch

from sam3_hf import Sam3Detector, Sam3Model, tiny_config
from sam3_hf.configuration import Sam3LossConfig
from sam3_hf.losses import Normalizer, Targets, match_one_to_many, match_one_to_one
from sam3_hf.losses.terms import class_loss, dice_loss, focal_loss, mask_losses, paired_giou, sample_uncertain_points
from sam3_hf.ops.boxes import box_cxcywh_to_xyxy

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def detector() -> Sam3Detector:
    torch.manual_seed(0)
    config = tiny_config(image_size=112).detector_config
    for part in (config.geometry_encoder_config, config.detr_encoder_config, config.detr_decoder_config):
        part.dropout = 0.0
    config.vision_config.backbone_config.drop_path_rate = 0.0
    return Sam3Detector(config)


def label(count: int, seed: int = 0, side: int = 16, masks: bool = True) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed + count)
    size = torch.rand(count, 2, generator=generator) * 0.3 + 0.1
    centre = size / 2 + torch.rand(count, 2, generator=generator) * (1 - size)
    boxes = torch.cat((centre, size), 1)
    if not masks:
        return {"boxes": boxes}
    x0, y0, x1, y1 = (box_cxcywh_to_xyxy(boxes) * side).unbind(1)
    cells = torch.arange(side) + 0.5
    inside_x = (cells >= x0[:, None]) & (cells <= x1[:, None])
    inside_y = (cells >= y0[:, None]) & (cells <= y1[:, None])
    return {"boxes": boxes, "masks": inside_y[:, :, None] & inside_x[:, None, :]}


def batch(counts: list[int], num_images: int | None = None) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    num_images = len(counts) if num_images is None else num_images
    return {
        "pixel_values": torch.randn(num_images, 3, 112, 112, generator=generator),
        "input_ids": torch.randint(1, 49000, (len(counts), 6), generator=generator),
        "image_ids": torch.arange(len(counts)) % num_images,
        "labels": [label(count, seed) for seed, count in enumerate(counts)],
    }


def gradients(model: Sam3Detector) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def test_loss_is_the_sum_of_its_named_terms_and_reaches_every_part(detector: Sam3Detector) -> None:
    detector.train()
    answer = detector(**batch([2, 0, 3], num_images=2))
    assert answer.loss.item() == pytest.approx(sum(v.item() for v in answer.loss_dict.values()), rel=1e-5)
    assert {"loss_bbox", "loss_mask_o2m", "loss_presence_aux", "loss_semantic"} <= answer.loss_dict.keys()
    assert answer.pred_masks is None, "masks are made for matched queries only"
    answer.loss.backward()
    reached = gradients(detector)
    for part in ("vision_encoder.backbone.layers.0", "text_encoder", "detr_encoder", "detr_decoder", "mask_decoder"):
        assert any(name.startswith(part) for name in reached), part


def test_evaluation_gives_loss_and_masks_and_no_copies(detector: Sam3Detector) -> None:
    detector.eval()
    with torch.no_grad():
        answer = detector(**batch([2, 0, 3, 1, 0, 1], num_images=2))
        plain = {k: v for k, v in batch([2, 0, 3, 1, 0, 1], num_images=2).items() if k != "labels"}
        unlabelled = detector(**plain)
    assert answer.pred_masks.shape == (6, 12, 32, 32)
    assert not any(name.endswith("_o2m") for name in answer.loss_dict)
    assert unlabelled.loss is None
    assert torch.equal(answer.pred_masks, unlabelled.pred_masks)
    assert torch.equal(answer.pred_logits, unlabelled.pred_logits)


def test_the_loss_of_the_whole_model_is_its_detectors(detector: Sam3Detector) -> None:
    torch.manual_seed(0)
    model = Sam3Model(tiny_config(image_size=112)).eval()
    given = batch([1, 2])
    with torch.no_grad():
        assert torch.equal(model(**given).loss, model.detector_model(**given).loss)


def test_copies_of_queries_change_nothing_for_the_queries(detector: Sam3Detector) -> None:
    detector.train()
    given = batch([2, 1])
    with_copies = detector(**given)
    detector.config.loss_config = {"dac": False}
    try:
        without = detector(**given)
    finally:
        detector.config.loss_config = None
    assert torch.allclose(with_copies.pred_logits, without.pred_logits, atol=1e-5)
    assert torch.allclose(with_copies.pred_boxes, without.pred_boxes, atol=1e-5)
    for name, value in without.loss_dict.items():
        assert with_copies.loss_dict[name].item() == pytest.approx(value.item(), rel=1e-3), name


def test_copies_that_start_from_noisy_boxes_are_no_more_than_needed(detector: Sam3Detector) -> None:
    detector.train()
    given = batch([2, 0])
    detector.config.loss_config = {"denoise": 2}
    seen: list[torch.Tensor] = []
    hook = detector.detr_decoder.register_forward_hook(lambda _module, _given, made: seen.append(made.boxes))
    own = detector.config.detr_decoder_config.num_queries
    try:
        noisy = detector(**given)
        noisy.loss.backward()
        # Twice what two targets need; twelve queries have no more copies than themselves.
        assert seen[-1].shape[2] == own + 8
        detector(**batch([9, 1]))
        assert seen[-1].shape[2] == 2 * own
    finally:
        hook.remove()
        detector.config.loss_config = None
    plain = detector(**given)
    assert torch.allclose(noisy.pred_logits, plain.pred_logits, atol=1e-5)
    assert noisy.loss_dict["loss_mask_o2m"] > 0
    detector.zero_grad()


@pytest.mark.parametrize("pieces", [[[0, 1], [2, 3]], [[0], [1], [2], [3]], [[0, 1, 2], [3]]])
def test_cutting_a_batch_into_pieces_gives_the_same_gradient(detector: Sam3Detector, pieces: list[list[int]]) -> None:
    detector = deepcopy(detector).double().train()  # in float32, biases that have no gradient show 1e-5 of rounding
    given = batch([2, 0, 3, 1])
    given["pixel_values"] = given["pixel_values"].double()
    total = Normalizer.of(given["labels"])
    detector(**given, num_items_in_batch=total).loss.backward()
    whole = gradients(detector)
    for rows in pieces:
        part = {k: given[k][rows] for k in ("pixel_values", "input_ids")}
        detector(**part, labels=[given["labels"][i] for i in rows], num_items_in_batch=total).loss.backward()
    summed = gradients(detector)
    assert whole.keys() == summed.keys()
    for name, gradient in whole.items():
        tolerance = 1e-5 * gradient.abs().max().item() + 5e-6
        assert (gradient - summed[name]).abs().max().item() <= tolerance, name


@pytest.mark.parametrize("masks", [True, False], ids=["masks", "boxes only"])
@pytest.mark.parametrize("counts", [[0, 0], [1, 0], [30, 2]], ids=["all absent", "one", "more targets than queries"])
def test_loss_is_finite_and_differentiable(detector: Sam3Detector, counts: list[int], masks: bool) -> None:
    detector.train()
    given = batch(counts)
    given["labels"] = [label(count, seed, masks=masks) for seed, count in enumerate(counts)]
    answer = detector(**given)
    answer.loss.backward()
    assert torch.isfinite(answer.loss)
    assert all(torch.isfinite(g).all() for g in gradients(detector).values())
    if not masks:
        assert answer.loss_dict["loss_mask"] == answer.loss_dict["loss_semantic"] == 0


def test_masks_alone_are_enough(detector: Sam3Detector) -> None:
    detector.eval()
    given = batch([2, 1])
    masks = [{"masks": one["masks"]} for one in given["labels"]]
    both = [{"masks": one["masks"], "boxes": Targets.pack([one], 1, CPU).boxes} for one in masks]
    with torch.no_grad():
        assert torch.equal(detector(**given | {"labels": masks}).loss, detector(**given | {"labels": both}).loss)


def test_a_model_without_presence_head_trains_on_absent_phrases_too() -> None:
    config = tiny_config(image_size=112).detector_config
    config.detr_decoder_config.presence = False
    model = Sam3Detector(config).train()
    answer = model(**batch([0, 0]))
    assert "loss_presence" not in answer.loss_dict
    assert answer.loss_dict["loss_ce"] > 0
    assert answer.presence_logits.sigmoid().eq(1).all()


def test_unmatched_queries_of_a_row_that_is_not_exhaustive_are_not_punished() -> None:
    logits = torch.zeros(2, 3)
    matched = (torch.tensor([0, 1]), torch.tensor([1, 1]))
    ones = torch.ones(2)
    both = class_loss(logits, matched, torch.ones(2), ones, torch.tensor([True, True]))
    one = class_loss(logits, matched, torch.ones(2), ones, torch.tensor([True, False]))
    assert (both - one).item() == pytest.approx(2 * 0.25 * 0.6931472, rel=1e-5)


def test_terms_of_perfect_and_worst_answers() -> None:
    wanted = torch.zeros(1, 100)
    wanted[:, :30] = 1
    assert dice_loss((wanted * 2 - 1) * 50, wanted).item() == pytest.approx(0, abs=1e-6)
    assert focal_loss((wanted * 2 - 1) * 50, wanted, 0.25, 2).item() == pytest.approx(0, abs=1e-6)
    assert dice_loss((1 - wanted * 2) * 50, wanted).item() == pytest.approx(1 - 1 / 101, abs=1e-6)
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert paired_giou(boxes, boxes).item() == 1
    assert paired_giou(boxes, boxes + 2).item() == pytest.approx(-7 / 9)


@pytest.mark.parametrize(("beta", "score"), [(None, 0.6), (0.75, 0.6), (0.25, 0.6 ** (1 / 3))])
def test_what_is_surely_an_object_comes_to_score_a_power_of_its_iou(beta: float | None, score: float) -> None:
    logits = torch.full((1, 2), -1.0, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.05)
    first = (torch.tensor([0]), torch.tensor([0]))
    for _ in range(500):
        one = torch.ones(1)
        loss = class_loss(logits, first, torch.tensor([0.6]), one, one.bool(), beta=beta)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert logits[0, 0].sigmoid().item() == pytest.approx(score, abs=0.005)
    assert logits[0, 1].sigmoid() < 0.1


def test_sampled_points_prefer_doubt_and_agree_with_dense_losses() -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(-8, 8, 64).expand(1, 1, 64, 64).contiguous()
    points = sample_uncertain_points(ramp, 1000)
    assert points.shape == (1, 1000, 2)
    assert points.min() >= 0 and points.max() <= 1
    assert ((points[..., 0] - 0.5).abs() < 0.25).float().mean() > 0.8
    wanted = ramp[0] > 0
    flat = torch.full((1, 64, 64), 3.0)
    dense = mask_losses(flat, wanted, 0.25, 2)
    sampled = mask_losses(flat, wanted, 0.25, 2, num_points=4000)
    assert sampled[0].item() == pytest.approx(dense[0].item(), rel=0.1)


def test_matches_are_one_to_one_and_one_to_many() -> None:
    targets = Targets.pack([label(3), label(0), label(2)], 3, CPU)
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(2, 3, 20, 4, generator=generator) * 0.5 + 0.2
    boxes[:, 0, :12] = targets.boxes[:3].repeat(4, 1)
    logits = torch.randn(2, 3, 20, generator=generator)
    for match in match_one_to_one(logits, boxes, targets, Sam3LossConfig()):
        assert match.targets.tolist() == [0, 1, 2, 3, 4]
        assert len(set(zip(match.rows.tolist(), match.queries.tolist(), strict=True))) == 5
    many = match_one_to_many(logits[0], boxes[0], targets, Sam3LossConfig())
    assert torch.bincount(many.targets, minlength=5).max() <= 4
    assert (torch.bincount(many.targets, minlength=5)[:3] > 1).any()


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ({"boxes": torch.zeros(0, 4)}, TypeError, "one dict per row"),
        ([{"boxes": torch.zeros(0, 4)}], ValueError, "1 labels for 2 rows"),
        ([{}, label(1)], ValueError, r"labels\[0\] has neither"),
        ([label(1), {"boxes": torch.tensor([[10.0, 10, 50, 50]])}], ValueError, r"labels\[1\].*fractions 0..1"),
        ([label(1), {"boxes": torch.tensor([[0.5, 0.5, 0.0, 0.2]])}], ValueError, "target 0 is empty"),
        ([label(1), {"boxes": torch.tensor([[0.5, 0.5, float("nan"), 0.2]])}], ValueError, "fractions"),
        ([label(1), label(2) | {"masks": label(1)["masks"]}], ValueError, "2 boxes and 1 masks"),
        ([label(1), {"masks": torch.zeros(4, 4)}], ValueError, r"shape \(n, height, width\)"),
        ([label(1), {"masks": torch.zeros(1, 4, 4)}], ValueError, "target 0 is empty"),
    ],
)
def test_labels_that_cannot_be_used_say_why(
    detector: Sam3Detector, labels: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        detector(**batch([1, 1]) | {"labels": labels})


def test_loss_config_is_checked_and_travels_with_the_model(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"must not be negative.*weight_mask"):
        Sam3LossConfig(weight_mask=-1)
    with pytest.raises(ValueError, match="mask_points"):
        Sam3LossConfig(mask_points=0)
    config = tiny_config()
    assert config.detector_config.losses == Sam3LossConfig()
    config.detector_config.loss_config = {"weight_mask": 50.0}
    config.save_pretrained(tmp_path)
    again = type(config).from_pretrained(tmp_path)
    assert again.detector_config.losses == Sam3LossConfig(weight_mask=50.0)


def test_normalizer_adds_up() -> None:
    one, two = Normalizer.of([label(2), label(0)]), Normalizer.of([label(3, masks=False)])
    assert one + two == Normalizer(num_boxes=5, num_rows=3, num_present=1)
    assert one.over_processes(CPU) == one
