"""Stream activation statistics over a sampler's own trajectory, and make the precision plan from
them.
"""

from __future__ import annotations

if __name__ == "calibrate":
    raise ImportError(
        "import edgegen.calibrate: the bare name would load a second copy of every class"
    )
