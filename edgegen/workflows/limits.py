"""Settings that are out of range are refused where they are made, not where they are used."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import UsageError


def check_least(least: int, settings: Mapping[str, float | None]) -> None:
    """UsageError names a setting that is below `least`; None is one that was not given."""
    for name, value in settings.items():
        if value is not None and not value >= least:
            raise UsageError("E-USAGE", f"{name} must be {least} or more, got {value}")
