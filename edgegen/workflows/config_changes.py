"""Apply changes such as "field=value" to a family's config, which checks them itself: this module
knows no family's fields.
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
    """Return the config with each "field=value" of `changes` set; "coarse.widths=[32,64]" reaches
    into a field.

    Raises UsageError for a change that is no assignment, a field that the family does not have, or
    a value that its config refuses.
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
    """Parse a number, true, false, null or a list as JSON; anything else stays a string."""
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)  # NaN and 1e999 are not JSON, though Python parses them
        return value
    except (ValueError, RecursionError):
        return text
