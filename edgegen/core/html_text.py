"""Text of unknown origin in a page."""

from __future__ import annotations

import html

from ..errors import escaped


def escape(text: str) -> str:
    """As a page shows it: no markup, and nothing that turns the line."""
    return html.escape(escaped(text))
