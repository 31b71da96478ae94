"""Escaping of text of unknown origin for an HTML page."""

from __future__ import annotations

import html

from ..errors import escaped


def escape(text: str) -> str:
    """Return text that an HTML page shows literally, without markup or direction marks."""
    return html.escape(escaped(text))
