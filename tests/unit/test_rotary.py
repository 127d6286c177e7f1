"""Rotary positions: the complex form against the real one, and what they are for."""

import pytest
import torch

from sam3_hf.modeling import rotary
from sam3_hf.modeling.rotary import apply_rotary, axial_rotary


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_complex_and_real_form_agree(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 35, 3, 16).to(dtype).transpose(1, 2)  # strided, as attention hands it over
    angles = axial_rotary(5, 7, 16, 10000.0, scale=0.5)
    assert (apply_rotary(x, *angles) - rotary._turn_real(x, *angles)).abs().max() <= 1e-6
    assert apply_rotary(x, *angles).dtype == dtype


def test_products_depend_on_the_distance_alone() -> None:
    """Turned queries and keys meet in a product that knows how far apart they are, not where."""
    torch.manual_seed(0)
    query, key = torch.randn(16), torch.randn(16)
    angles = axial_rotary(6, 6, 16, 10000.0)
    q = apply_rotary(query.expand(36, 16), *angles).view(6, 6, 16)
    k = apply_rotary(key.expand(36, 16), *angles).view(6, 6, 16)
    assert torch.allclose(q[1, 2] @ k[3, 3], q[2, 3] @ k[4, 4], atol=1e-5)
    assert not torch.allclose(q[1, 2] @ k[3, 3], q[1, 2] @ k[3, 4], atol=1e-3)


@pytest.mark.parametrize("batch", [1, 3])
def test_half_precision_in_pieces_gives_the_same_bits(batch: int) -> None:
    cosine, sine = axial_rotary(4, 4, 8, 10000.0)
    x = torch.randn(batch, 2, 16, 8).bfloat16()
    with torch.no_grad():
        in_pieces = apply_rotary(x, cosine, sine)
    assert torch.equal(in_pieces, apply_rotary(x, cosine, sine))
