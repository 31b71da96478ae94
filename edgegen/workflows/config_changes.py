"""Changes of a family's config as "field=value", checked by the config itself: nothing here knows
any family's fields.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError

if TYPE_CHECKING:
    from ..families import Family


def changed(family: Family, config: Any, changes: Sequence[str]) -> Any:
    """The config with each "field=value" of `changes` set; "coarse.widths=[32,64]" reaches into a
    field.

    UsageError for a change that is no assignment, a field the family does not have, or a value its
    config refuses.
    """
    from ..training.checkpoint import parse

    data = asdict(config)
    for change in changes:
        name, equals, text = change.partition("=")
        *outer, last = name.split(".")
        place: Any = data
        for part in outer:
            place = place.get(part) if isinstance(place, dict) else None
        if not equals or not isinstance(place, dict) or last not in place:
            known = (
                ", ".join(sorted(place))
                if equals and isinstance(place, dict)
                else "write field=value"
            )
            raise UsageError("E-SETTING", f"{family.name} has no setting {name!r}", hint=known)
        place[last] = _value(text)
    return parse(family.config, data, Path("--set")) if changes else config


def _value(text: str) -> Any:
    """A number, true, false, null or a list as JSON writes them; anything else is a word."""
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)  # NaN and 1e999 are no JSON, though Python reads them
        return value
    except (ValueError, RecursionError):
        return text
