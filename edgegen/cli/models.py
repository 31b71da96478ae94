"""edgegen models: what ships in the zoo."""

from __future__ import annotations

from typing import Any

from . import output


def models(json: output.Json = False) -> None:
    """List the pretrained generators with what was measured of each."""
    from ..zoo import entries

    found = entries()
    output.result(
        "models", {"models": [{**e.card, "name": e.name, "grid": str(e.grid)} for e in found]}
    )
    output.table(
        ["name", "family", "parameters", "pixels", "data", "distance (95 %)", "novelty", "grid"],
        [
            [
                e.name,
                e.card["family"],
                f"{e.card['parameters']:,}",
                e.card["config"]["size"],
                e.card["data"]["name"],
                "{value:.1f} ({low:.1f} to {high:.1f})".format(**e.card["distance"]),
                _novelty(e.card),
                e.grid,
            ]
            for e in found
        ],
    )
    for entry in found:
        print(f"{entry.name}: {entry.card['distance']['what']}; {entry.card['licence']}")


def _novelty(card: dict[str, Any]) -> str:
    """Nearest-neighbour ratio in pixels and the share of copies; a dash for a card from before it
    was measured.
    """
    if "novelty" not in card:
        return "-"
    found = card["novelty"]["pixels"]
    return f"{found['ratio']:.2f} ({found['copies']:.1%} copies)"
