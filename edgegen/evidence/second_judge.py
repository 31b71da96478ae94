"""Judge the same pairs with a second feature network of another kind, because one network may see
what another cannot. It needs numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.verdict import AtMost, State
from .compare import DistanceLook, Pairs
from .movement import along_main, apart, in_percent, moved
from .reference import Features
from .terms import Terms

OPEN_NSFW = "open-nsfw"
# networks whose weights a package brings; a user brings those of others
PACKAGED = frozenset({OPEN_NSFW})


def asked_with(name: str) -> str:
    """Return what follows --second-judge for the network of that name."""
    return name if name in PACKAGED else f"{name}.safetensors"


@dataclass(frozen=True)
class SecondFound:
    """Hold the gates that need no reference, over the second network's features; their limits are
    those of the first.
    """

    network: Features
    moved: AtMost
    apart: AtMost

    @property
    def states(self) -> dict[str, State]:
        """Return the state of each gate by its name."""
        return {"moved (second)": self.moved.state, "apart (second)": self.apart.state}

    @property
    def failures(self) -> dict[str, str]:
        """Return the clause for a gate that is not passed, by the gate's name."""
        by = f"by the second judge {self.network.name}"
        return {
            "moved (second)": f"{by}, features moved by {in_percent(self.moved)}",
            "apart (second)": f"{by}, the sets are apart by {in_percent(self.apart)}",
        }

    def to_json(self) -> dict[str, Any]:
        network = self.network
        return {
            **{"features": network.name, "sha256": network.sha256, "size": network.size},
            "moved": self.moved.to_json(),
            "apart": self.apart.to_json(),
        }


def found_by_second(pairs: Pairs, look: DistanceLook, terms: Terms) -> SecondFound | None:
    """Return what the second judge says at a look; None if there is none."""
    network = pairs.full.second
    if network is None:
        return None
    full, other = pairs.full.seen_by_second(look.count), pairs.seen_by_second(look.count)
    return SecondFound(
        network,
        AtMost(moved(full, other, look.level), terms.moved),
        AtMost(apart(*along_main(full, other), look.level), terms.apart),
    )
