import pytest
import torch
from torch import Tensor

from sam3_hf.ops.components import fill_holes_and_remove_specks, label_components, small_components


def flooded(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and areas of one mask by the plain flood fill."""
    labels, areas = torch.zeros(mask.shape, dtype=torch.int32), torch.zeros(mask.shape, dtype=torch.int32)
    label = 0
    for y, x in mask.nonzero().tolist():
        if labels[y, x]:
            continue
        label += 1
        labels[y, x] = label
        found = [(y, x)]
        for b, a in found:
            for v in range(max(b - 1, 0), min(b + 2, mask.shape[0])):
                for u in range(max(a - 1, 0), min(a + 2, mask.shape[1])):
                    if mask[v, u] and not labels[v, u]:
                        labels[v, u] = label
                        found.append((v, u))
        for v, u in found:
            areas[v, u] = len(found)
    return labels, areas


def drawn(*rows: str) -> Tensor:
    return torch.tensor([[pixel == "#" for pixel in row] for row in rows])


SPIRAL = drawn(
    "########", ".......#", "######.#", "#....#.#", "#.##.#.#", "#.#..#.#", "#.####.#", "#......#", "########"
)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.42, 0.6, 0.9])
def test_labels_and_areas_are_those_of_a_flood_fill(share: float) -> None:
    masks = torch.rand(6, 13, 17, generator=torch.Generator().manual_seed(0)) < share
    labels, areas = label_components(masks)
    expected = [flooded(mask) for mask in masks]
    assert torch.equal(labels, torch.stack([one[0] for one in expected]))
    assert torch.equal(areas, torch.stack([one[1] for one in expected]))
    for limit in (1, 4, 16):
        assert torch.equal(small_components(masks, limit), masks & (areas <= limit))


def test_a_long_way_round_is_one_component() -> None:
    labels, areas = label_components(SPIRAL[None])
    assert labels.unique().tolist() == [0, 1]
    assert areas.max() == SPIRAL.sum()


def test_corners_connect_and_masks_and_their_edges_do_not() -> None:
    corners = drawn("#.#", ".#.", "...")
    edges = drawn("..#", "#..", "..#")  # ends of one row, and the next row's beginning
    full, empty = torch.ones_like(corners), torch.zeros_like(corners)
    labels, areas = label_components(torch.stack([full, corners, edges, empty, full]))
    assert labels.flatten(1).amax(1).tolist() == [1, 1, 3, 0, 1]
    assert areas.flatten(1).amax(1).tolist() == [9, 3, 1, 0, 9]


def test_each_mask_may_have_its_own_limit() -> None:
    mask = drawn("##..#", "##...", "....#")
    small = small_components(torch.stack([mask] * 3), torch.tensor([0, 1, 4]))
    assert small.sum((1, 2)).tolist() == [0, 2, 6]


@pytest.mark.parametrize("shape", [(0, 5, 5), (2, 0, 5), (2, 5, 0), (3, 1, 1)])
def test_nothing_in_nothing_out(shape: tuple[int, int, int]) -> None:
    masks = torch.zeros(shape, dtype=torch.bool)
    assert [one.shape for one in label_components(masks)] == [shape, shape]
    assert small_components(masks, 4).shape == shape
    assert fill_holes_and_remove_specks(torch.zeros(shape)).shape == shape


def test_a_hole_is_filled_and_a_speck_removed_by_a_little() -> None:
    logits = torch.full((1, 12, 12), 5.0)
    logits[0, 6:] = -5.0
    logits[0, 2, 2], logits[0, 9, 9] = -3.0, 3.0
    expected = logits.clone()
    expected[0, 2, 2], expected[0, 9, 9] = 0.1, -0.1
    assert torch.equal(fill_holes_and_remove_specks(logits), expected)
    assert logits[0, 2, 2] == -3.0  # the input is as it was


def test_an_object_that_is_all_there_is_stays_and_equal_halves_go() -> None:
    logits = torch.full((2, 12, 12), -5.0)
    logits[0, 3, 3:6] = 1.0
    logits[1, 3, 3:6] = logits[1, 9, 3:6] = 1.0
    cleaned = fill_holes_and_remove_specks(logits)
    assert torch.equal(cleaned[0], logits[0])
    assert not (cleaned[1] > 0).any()


def test_the_limit_is_inclusive_and_0_changes_nothing() -> None:
    logits = torch.full((1, 20, 20), 1.0)
    logits[0, 2:6, 2:6] = -1.0
    assert (fill_holes_and_remove_specks(logits, 16) > 0).all()
    assert torch.equal(fill_holes_and_remove_specks(logits, 15), logits)
    assert fill_holes_and_remove_specks(logits, 0) is logits


def test_a_dtype_is_kept() -> None:
    logits = torch.full((1, 9, 9), 2.0, dtype=torch.bfloat16)
    logits[0, 4, 4] = -2.0
    assert fill_holes_and_remove_specks(logits).dtype == torch.bfloat16


def test_what_is_no_mask_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bool \(N, H, W\)"):
        label_components(torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        small_components(torch.zeros(4, 4, dtype=torch.bool), 1)
    with pytest.raises(TypeError, match="logits"):
        fill_holes_and_remove_specks(torch.zeros(1, 4, 4, dtype=torch.bool))
