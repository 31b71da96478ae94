"""Codes of warnings about work that was done: they are not failures, and the exit code is 0."""

from __future__ import annotations

from .usage import Row

ROWS: tuple[Row, ...] = (
    (
        "W-TUNE-FAR",
        (0,),
        "The images of a fine-tuned generator are too far from the held-out photos to show the "
        "site's products: more than four times as far as blurring moves photos.",
        "Use a longer --time, more photos or another base; do not export the generator yet.",
    ),
    (
        "W-TUNE-NO-GAIN",
        (0,),
        "The images of a fine-tuned generator are not clearly nearer to the held-out photos than "
        "those of its base.",
        "Train with more --steps, and look at timeline.png.",
    ),
)
