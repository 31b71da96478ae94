"""edgegen models: what ships in the zoo."""

from __future__ import annotations

from . import output


def models(json: output.Json = False) -> None:
    """List the pretrained generators with what was measured of each."""
    from ..zoo import entries

    found = entries()
    output.result("models", {"models": [{**e.card, "name": e.name, "grid": str(e.grid)} for e in found]})
    output.table(
        ["name", "family", "parameters", "pixels", "data", "distance (95 %)", "grid"],
        [[e.name, e.card["family"], f"{e.card['parameters']:,}", e.card["config"]["size"], e.card["data"]["name"],
          "{value:.1f} ({low:.1f} to {high:.1f})".format(**e.card["distance"]), e.grid] for e in found],
    )
    for entry in found:
        print(f"{entry.name}: {entry.card['distance']['what']}; {entry.card['licence']}")
