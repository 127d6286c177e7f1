"""`Problems`: what a file holds that cannot be taken as it stands, counted by kind and told in one message."""

from collections import defaultdict
from dataclasses import dataclass, field

__all__ = ["Problems"]

_SHOWN = 5


@dataclass
class Problems:
    """Faults (an error, or left out where `lenient`) and remarks (never an error) of one file.

    Attributes:
        source: name of the file.
        lenient: faults are left out and counted, in place of an error.
        faults, remarks: kind → what it was about, in order.
    """

    source: str
    lenient: bool = False
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    remarks: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def fault(self, kind: str, what: str) -> None:
        """Notes something that cannot be used."""
        self.faults[kind].append(what)

    def remark(self, kind: str, what: str) -> None:
        """Notes something that is used in a way that the user should know of."""
        self.remarks[kind].append(what)

    def settle(self) -> None:
        """Raises ValueError with all faults, unless lenient."""
        if self.faults and not self.lenient:
            raise ValueError(
                f"{self.source} cannot be scored: {'; '.join(_lines(self.faults))}. "
                "Mend the file, or give --lenient to leave these out and count them."
            )

    def counts(self) -> dict[str, int]:
        """How many of each kind, faults first."""
        return {kind: len(found) for some in (self.faults, self.remarks) for kind, found in some.items()}

    def lines(self) -> list[str]:
        """A line for each kind, with the first few."""
        left_out = [f"{line} (left out)" for line in _lines(self.faults)]
        return [f"{self.source}: {line}" for line in left_out + _lines(self.remarks)]


def _lines(found: dict[str, list[str]]) -> list[str]:
    return [f"{len(what)} {kind} ({_listed(what)})" for kind, what in found.items()]


def _listed(what: list[str]) -> str:
    return ", ".join(what[:_SHOWN]) + (f" and {len(what) - _SHOWN} more" if len(what) > _SHOWN else "")
