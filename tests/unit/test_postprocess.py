from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sam3_hf.ops.masks import rle_decode
from sam3_hf.processing import postprocess
from sam3_hf.processing.postprocess import (
    object_scores,
    post_process_instance_segmentation,
    post_process_masks,
    post_process_object_detection,
    post_process_semantic_segmentation,
)


def outputs(rows=2, queries=6, side=12, dtype=torch.float32):
    """Random outputs whose first query scores highest in every row and whose presence is high."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, queries, generator=generator)
    logits[:, 0] = 4.0
    corners = torch.rand(rows, queries, 2, 2, generator=generator).sort(dim=2).values.flatten(2)
    return SimpleNamespace(
        pred_logits=logits.to(dtype),
        presence_logits=torch.full((rows, 1), 3.0, dtype=dtype),
        pred_boxes=corners.to(dtype),
        pred_masks=(3 * torch.randn(rows, queries, side, side, generator=generator)).to(dtype),
        semantic_seg=torch.randn(rows, 1, side, side, generator=generator).to(dtype),
    )


def test_score_is_query_times_presence():
    made = SimpleNamespace(pred_logits=torch.tensor([[0.0, 2.0]]), presence_logits=torch.tensor([[-1.0]]))
    expected = torch.tensor([[0.5, 2.0]])
    expected[0, 1] = torch.tensor(2.0).sigmoid()
    torch.testing.assert_close(object_scores(made), expected * torch.tensor(-1.0).sigmoid())


def test_score_without_presence_is_the_querys():
    made = SimpleNamespace(pred_logits=torch.zeros(1, 3), presence_logits=None)
    assert object_scores(made).tolist() == [[0.5] * 3]


def test_objects_above_the_threshold_come_best_first_in_pixels():
    made = outputs()
    results = post_process_instance_segmentation(made, 0.3, target_sizes=[(30, 40), (50, 20)])
    scores = object_scores(made)
    for row, (result, (height, width)) in enumerate(zip(results, [(30, 40), (50, 20)], strict=True)):
        order = [index for index in scores[row].argsort(descending=True).tolist() if scores[row, index] > 0.3]
        assert len(order) > 1
        assert torch.equal(result["scores"], scores[row, order])
        torch.testing.assert_close(result["boxes"], made.pred_boxes[row, order] * torch.tensor([width, height] * 2))
        assert result["masks"].shape == (len(order), height, width)
        assert result["masks"].dtype == torch.bool
        assert "labels" not in result


def test_masks_are_resized_as_logits_and_then_cut_at_zero():
    made = outputs(rows=1)
    mask = post_process_instance_segmentation(made, target_sizes=[(31, 47)], top_k=1)[0]["masks"][0]
    expected = torch.nn.functional.interpolate(made.pred_masks[:, :1], (31, 47), mode="bilinear")[0, 0] > 0
    assert torch.equal(mask, expected)


def test_mask_threshold_is_a_probability():
    made = outputs(rows=1)
    mask = post_process_instance_segmentation(made, mask_threshold=0.8, top_k=1)[0]["masks"][0]
    assert torch.equal(mask, made.pred_masks[0, 0].sigmoid() > 0.8)


def test_resizing_in_pieces_changes_nothing(monkeypatch):
    made = outputs(queries=20)
    whole = post_process_instance_segmentation(made, 0.0, target_sizes=[(30, 40)])
    monkeypatch.setattr(postprocess, "_CHUNK_PIXELS", 30 * 40 * 3)
    pieces = post_process_instance_segmentation(made, 0.0, target_sizes=[(30, 40)])
    assert len(whole[0]["masks"]) == 20
    assert all(torch.equal(a["masks"], b["masks"]) for a, b in zip(whole, pieces, strict=True))


def test_rle_masks_decode_to_the_bool_ones():
    made = outputs()
    plain = post_process_instance_segmentation(made, target_sizes=[(30, 40)])
    coded = post_process_instance_segmentation(made, target_sizes=[(30, 40)], mask_format="rle")
    for a, b in zip(plain, coded, strict=True):
        assert torch.equal(a["masks"], torch.stack([rle_decode(code) for code in b["masks"]]))


def test_nothing_found_keeps_shapes():
    result = post_process_instance_segmentation(outputs(), 0.999, target_sizes=[(30, 40)], nms_threshold=0.5)[0]
    assert result["scores"].shape == (0,)
    assert result["boxes"].shape == (0, 4)
    assert result["masks"].shape == (0, 30, 40)
    rle = post_process_instance_segmentation(outputs(), 0.999, target_sizes=[(30, 40)], mask_format="rle")[0]
    assert rle["masks"] == []


def test_nms_drops_the_worse_of_two_equal_masks_and_top_k_counts_afterwards():
    made = outputs(rows=1)
    made.pred_masks[0, 1] = made.pred_masks[0, 0]
    made.pred_logits[0] = torch.tensor([4.0, 3.9, 3.0, 2.0, 1.0, 0.5])
    without = post_process_instance_segmentation(made, top_k=2)[0]["scores"]
    kept = post_process_instance_segmentation(made, top_k=2, nms_threshold=0.9)[0]["scores"]
    assert torch.equal(without, object_scores(made)[0, [0, 1]])
    assert torch.equal(kept, object_scores(made)[0, [0, 2]])


def test_labels_repeat_each_rows_phrase():
    results = post_process_instance_segmentation(outputs(), phrases=["cat", "dog"])
    assert set(results[0]["labels"]) == {"cat"}
    assert results[1]["labels"] == ["dog"] * len(results[1]["scores"])


def test_half_precision_is_computed_in_float32():
    results = post_process_instance_segmentation(outputs(dtype=torch.bfloat16), target_sizes=torch.tensor([[30, 40]]))
    assert results[0]["scores"].dtype == results[0]["boxes"].dtype == torch.float32


@pytest.mark.parametrize(
    "sizes",
    [[(30, 40)], torch.tensor([[30, 40]]), np.array([[30, 40], [30, 40]]), [torch.tensor([30, 40])], ([30, 40],)],
)
def test_one_size_holds_for_all_rows_in_any_form(sizes):
    assert [r["masks"].shape[1:] for r in post_process_instance_segmentation(outputs(), 0.3, 0.5, sizes)] == [
        (30, 40)
    ] * 2


def test_detection_gives_the_boxes_of_segmentation():
    made = outputs()
    boxes = post_process_object_detection(made, 0.3, [(30, 40)])
    masks = post_process_instance_segmentation(made, 0.3, target_sizes=[(30, 40)])
    for a, b in zip(boxes, masks, strict=True):
        assert torch.equal(a["boxes"], b["boxes"])
        assert torch.equal(a["scores"], b["scores"])


def test_semantic_map_is_resized_logits_above_the_threshold():
    made = outputs()
    maps = post_process_semantic_segmentation(made, [(30, 40), (10, 20)], threshold=0.6)
    expected = torch.nn.functional.interpolate(made.semantic_seg[1:], (10, 20), mode="bilinear")[0, 0].sigmoid() > 0.6
    assert maps[0].shape == (30, 40)
    assert maps[1].dtype == torch.int64
    assert torch.equal(maps[1], expected.long())
    assert post_process_semantic_segmentation(made)[0].shape == (12, 12)


def test_click_masks_go_to_the_size_of_their_picture():
    logits = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    masks = post_process_masks(logits, torch.tensor([[20, 30], [7, 5]]))
    assert [tuple(mask.shape) for mask in masks] == [(3, 4, 20, 30), (3, 4, 7, 5)]
    expected = torch.nn.functional.interpolate(logits[1], (7, 5), mode="bilinear")
    assert torch.equal(masks[1], expected > 0)
    torch.testing.assert_close(
        post_process_masks(list(logits.numpy()), [(20, 30), (7, 5)], binarize=False)[1], expected
    )


def test_constrained_click_masks_do_not_overlap():
    logits = torch.randn(1, 3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + 1
    free = post_process_masks(logits, [(20, 20)])[0]
    apart = post_process_masks(logits, [(20, 20)], apply_non_overlapping_constraints=True)[0]
    assert free.sum(0).max() > 1
    assert apart.sum(0).max() == 1
    assert torch.equal(apart.any(0), free.any(0))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: post_process_instance_segmentation(outputs(), mask_format="png"), "mask_format is 'png'"),
        (lambda: post_process_instance_segmentation(outputs(), mask_threshold=1.0), "mask_threshold is 1.0"),
        (
            lambda: post_process_instance_segmentation(outputs(), phrases="cat"),
            "phrases is 'cat'; expected a list of 2",
        ),
        (lambda: post_process_instance_segmentation(outputs(), target_sizes=(30, 40)), r"target_sizes is \[30, 40\]"),
        (lambda: post_process_instance_segmentation(outputs(), target_sizes=[(3, 4)] * 3), "has 3 entries; expected 2"),
        (lambda: post_process_semantic_segmentation(SimpleNamespace(semantic_seg=None)), "no semantic_seg"),
        (lambda: post_process_masks(torch.zeros(1, 4, 8, 8), [(20, 20)]), r"shape \(4, 8, 8\)"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
