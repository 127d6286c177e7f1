import pytest
import torch

from sam3_hf.ops import boxes as ops


@pytest.fixture
def xyxy():
    return torch.tensor([[1.0, 2.0, 4.0, 8.0], [0.0, 0.0, 10.0, 10.0]])


def test_centre_format_has_the_known_values(xyxy):
    assert ops.box_xyxy_to_cxcywh(xyxy)[0].tolist() == [2.5, 5.0, 3.0, 6.0]
    assert ops.box_xyxy_to_xywh(xyxy)[0].tolist() == [1.0, 2.0, 3.0, 6.0]


@pytest.mark.parametrize("there, back", [("xyxy_to_cxcywh", "cxcywh_to_xyxy"), ("xyxy_to_xywh", "xywh_to_xyxy")])
def test_formats_convert_both_ways(xyxy, there, back):
    assert torch.equal(getattr(ops, f"box_{back}")(getattr(ops, f"box_{there}")(xyxy)), xyxy)


def test_area_of_a_reversed_box_is_zero():
    assert ops.box_area(torch.tensor([[4.0, 2.0, 1.0, 8.0], [1.0, 2.0, 4.0, 8.0]])).tolist() == [0.0, 18.0]


def test_iou_of_equal_disjoint_and_half_overlapping_boxes():
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    b = torch.tensor([[0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 6.0, 6.0], [1.0, 0.0, 3.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    torch.testing.assert_close(ops.box_iou(a, b), torch.tensor([[1.0, 0.0, 1 / 3, 0.0]]))


def test_clip_keeps_corners_inside_a_wide_picture():
    clipped = ops.clip_boxes(torch.tensor([[-5.0, -1.0, 500.0, 70.0]]), (50, 100))
    assert clipped.tolist() == [[0.0, 0.0, 100.0, 50.0]]


def test_boxes_outside_are_the_pixel_next_to_them():
    boxes = torch.tensor([[-5.0, -1.0, 500.0, 70.0], [200.0, 10.0, 300.0, 20.0], [3.0, 4.0, 3.0, 4.0]])
    expected = [[0.0, 0.0, 100.0, 50.0], [99.0, 10.0, 100.0, 20.0], [3.0, 4.0, 4.0, 5.0]]
    assert ops.clip_boxes_to_pixels(boxes, (50, 100)).tolist() == expected


def test_scale_takes_height_and_width_in_that_order():
    assert ops.scale_boxes(torch.tensor([[0.5, 0.5, 1.0, 1.0]]), (50, 100)).tolist() == [[50.0, 25.0, 100.0, 50.0]]
