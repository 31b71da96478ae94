"""Write docs/errors.md from the table of error codes: python scripts/errors_page.py"""

from __future__ import annotations

from pathlib import Path

from edgegen.core.error_codes import page

if __name__ == "__main__":
    Path(__file__).resolve().parents[1].joinpath("docs", "errors.md").write_text(page(), "utf-8")
