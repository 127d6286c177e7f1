import torch

from sam3_hf.ops.nms import box_nms, greedy_nms, mask_nms


def test_the_better_of_two_overlapping_boxes_is_kept_and_best_comes_first():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]])
    assert box_nms(boxes, torch.tensor([0.5, 0.6, 0.9]), 0.5).tolist() == [2, 1]


def test_what_was_dropped_drops_nothing_itself():
    overlap = torch.tensor([[1.0, 0.8, 0.0], [0.8, 1.0, 0.8], [0.0, 0.8, 1.0]])
    assert greedy_nms(overlap, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist() == [0, 2]


def test_overlap_equal_to_the_threshold_is_kept():
    overlap = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    assert greedy_nms(overlap, torch.tensor([0.1, 0.2]), 0.5).tolist() == [1, 0]


def test_masks_are_compared_by_pixels_not_boxes():
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    diagonal = torch.eye(8, dtype=torch.bool)
    masks[0], masks[1], masks[2] = diagonal, diagonal.flip(1), diagonal
    assert mask_nms(masks, torch.tensor([0.3, 0.2, 0.1]), 0.5).tolist() == [0, 1]


def test_nothing_in_nothing_out():
    assert mask_nms(torch.zeros(0, 4, 4, dtype=torch.bool), torch.zeros(0), 0.5).tolist() == []
