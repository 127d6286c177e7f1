"""Between the original `sam3.pt` layout and the hub's, both ways."""

from .convert import convert, read_original
from .state_dict import from_original, to_original

__all__ = ["convert", "from_original", "read_original", "to_original"]
