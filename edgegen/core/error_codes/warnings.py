"""Codes of what is said of work that was done: no failure, and exit code 0."""

from __future__ import annotations

from .usage import Row

ROWS: tuple[Row, ...] = (
    (
        "W-TUNE-FAR",
        (0,),
        "What a fine-tuned generator draws is too far from the held-out photos to be called the "
        "site's products: farther than four times what blur does to photos.",
        "Give it a longer --time, more photos or another base; do not export it yet.",
    ),
    (
        "W-TUNE-NO-GAIN",
        (0,),
        "What a fine-tuned generator draws is not clearly nearer to the held-out photos than what "
        "its base draws.",
        "Give it more --steps, and look at timeline.png.",
    ),
)
