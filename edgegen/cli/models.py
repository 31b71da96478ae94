"""edgegen models: list what ships in the zoo."""

from __future__ import annotations

from typing import Any

from . import output


def models(json: output.Json = False) -> None:
    """List the pretrained generators with their measured quality."""
    from ..workflows.generators import zoo_models

    entries = zoo_models()
    output.result("models", {"models": [entry.to_json() for entry in entries]})
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
            for e in entries
        ],
    )
    for entry in entries:
        print(f"{entry.name}: {entry.card['distance']['what']}; {entry.card['licence']}")


def _novelty(card: dict[str, Any]) -> str:
    """Return the nearest-neighbour ratio in pixels and the share of copies; a dash for a card that
    is older than this measurement.
    """
    if "novelty" not in card:
        return "-"
    pixels = card["novelty"]["pixels"]
    return f"{pixels['ratio']:.2f} ({pixels['copies']:.1%} copies)"
