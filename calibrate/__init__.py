"""Streamed activation statistics over a sampler's own trajectory, and the precision plan made from
them.
"""

from __future__ import annotations

if __name__ == "calibrate":
    raise ImportError(
        "import edgegen.calibrate: the bare name would load a second copy of every class"
    )
