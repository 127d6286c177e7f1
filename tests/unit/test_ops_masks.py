import numpy as np
import pytest
import torch

from sam3_hf.ops.masks import mask_area, mask_iou, masks_to_boxes, rle_decode, rle_encode


def random_masks(shape, seed=0):
    """Smooth blobs and noise, so that runs of one and of thousands of pixels occur."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand((shape[0], 1, 4, 3), generator=generator)
    blobs = torch.nn.functional.interpolate(noise, shape[1:], mode="bilinear")[:, 0] > 0.5
    blobs[0] ^= torch.rand(shape[1:], generator=generator) > 0.9
    return blobs


MASKS = {
    "mixed": random_masks((5, 37, 53)),
    "large": random_masks((3, 700, 1100), 1),
    "empty": torch.zeros(1, 4, 6, dtype=torch.bool),
    "full": torch.ones(1, 4, 6, dtype=torch.bool),
    "pixel": torch.ones(1, 1, 1, dtype=torch.bool),
    "row": torch.tensor([[[0, 1, 1, 0, 1]]]).bool(),
    "checkers": (torch.arange(35).reshape(1, 5, 7) % 2).bool(),
    "huge empty": torch.zeros(1, 5000, 7000, dtype=torch.bool),
}


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS.keys())
def test_rle_equals_pycocotools_byte_for_byte(masks):
    coco = pytest.importorskip("pycocotools.mask")
    expected = coco.encode(np.asfortranarray(masks.permute(1, 2, 0).numpy().astype(np.uint8)))
    for ours, theirs in zip(rle_encode(masks), expected, strict=True):
        assert ours == {"size": theirs["size"], "counts": theirs["counts"].decode()}


def test_rle_of_a_known_mask():
    assert rle_encode(torch.tensor([[[0, 1], [1, 1]]]).bool()) == [{"size": [2, 2], "counts": "13"}]


@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS.keys())
def test_rle_decodes_to_what_was_encoded(masks):
    assert all(torch.equal(rle_decode(code), mask) for code, mask in zip(rle_encode(masks), masks, strict=True))


def test_rle_decodes_bytes_and_plain_counts():
    mask = torch.tensor([[0, 1], [1, 1]]).bool()
    assert torch.equal(rle_decode({"size": [2, 2], "counts": b"13"}), mask)
    assert torch.equal(rle_decode({"size": [2, 2], "counts": [1, 3]}), mask)


def test_rle_of_another_size_or_cut_off_is_refused():
    code = rle_encode(MASKS["large"])[0]
    with pytest.raises(ValueError, match="expected 3 x 4 = 12"):
        rle_decode({"size": [3, 4], "counts": code["counts"]})
    with pytest.raises(ValueError, match="cut off"):
        rle_decode({"size": [3, 4], "counts": "o"})
    with pytest.raises(ValueError, match=r"\(N, H, W\), got \(4, 6\)"):
        rle_encode(torch.zeros(4, 6))


def test_mask_iou_equals_counting_pair_by_pair():
    a, b = MASKS["large"], random_masks((4, 700, 1100), 2)
    expected = [[(x & y).sum() / (x | y).sum() for y in b] for x in a]
    torch.testing.assert_close(mask_iou(a, b), torch.tensor(expected))


def test_mask_iou_is_exact_in_pieces_and_zero_for_empty_masks(monkeypatch):
    a = MASKS["mixed"]
    whole = mask_iou(a, a)
    monkeypatch.setattr("sam3_hf.ops.masks._PIXELS_PER_PRODUCT", 100)
    assert torch.equal(mask_iou(a, a), whole)
    assert mask_iou(MASKS["empty"], MASKS["empty"]).item() == 0


def test_area_counts_pixels_of_leading_axes():
    assert mask_area(MASKS["full"][None]).tolist() == [[24]]


def test_boxes_enclose_masks_and_empty_masks_have_zeros():
    masks = torch.zeros(3, 6, 9, dtype=torch.bool)
    masks[0, 2:4, 3:8] = True
    masks[1, 5, 8] = True
    assert masks_to_boxes(masks).tolist() == [[3, 2, 8, 4], [8, 5, 9, 6], [0, 0, 0, 0]]
