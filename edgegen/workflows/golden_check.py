"""Does this machine make the images that were made where the bundle was? Needs no torch and no
feature network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..cli import output
from ..errors import GateFailed, RuntimeMissing, UsageError
from ..evidence import golden_images

if TYPE_CHECKING:
    from ..core.bundle import Bundle
    from ..evidence.golden_images import Alike, Kept


def images_of(bundle: Bundle) -> Kept:
    """Those that the export kept. UsageError for a bundle from before it kept any."""
    if golden_images.FILE not in bundle.manifest.files:
        raise UsageError(
            "E-BUNDLE",
            f"the bundle keeps no images to compare with (edgegen {bundle.manifest.edgegen} made "
            "it)",
            path=bundle.root,
            hint="export it again, or add --files-only",
        )
    return golden_images.read(bundle.path(golden_images.FILE))


def repeated(
    bundle: Bundle, there: Kept, names: Sequence[str], threads: int, trust_engines: bool
) -> tuple[list[Alike], dict[str, str]]:
    """Each runtime's FP32 and INT8 images against the kept ones, and why others could not run.
    RuntimeMissing when none can.
    """
    from ..core.images import to_uint8
    from ..export import runtime

    skipped = {n: why for n in names if (why := runtime(n).cannot_run())}
    if len(skipped) == len(names):
        raise RuntimeMissing(
            "E-BACKEND", "; ".join(f"{n}: {why}" for n, why in skipped.items()), path=bundle.root
        )
    found = []
    with output.progress("generating the same seeds", len(names) - len(skipped)) as advance:
        for name in names:
            if name in skipped:
                continue
            target = runtime(name)
            int8 = bundle.pipeline(target, "int8", threads, trust_engines=trust_engines)
            if not target.executable:
                full = bundle.pipeline(target, "fp32", threads)
                found.append(golden_images.full(there, name, to_uint8(full(there.seeds))))
            found.append(golden_images.int8(there, name, to_uint8(int8(there.seeds))))
            advance(1)
    return found, skipped


def show(found: Sequence[Alike], skipped: dict[str, str], seeds: range) -> None:
    """One row a set of images."""
    rows = [
        [
            a.name,
            f"{a.share:.3%}",
            _decibel(a.psnr_db),
            _decibel(a.least_db) if a.least_db else "99.9% of pixels",
            "the same" if a.same else "OTHER IMAGES",
        ]
        for a in found
    ]
    rows += [[f"{name} INT8", "", "", "", f"skipped: {why}"] for name, why in skipped.items()]
    output.table(
        ["images", "within 1/255", "PSNR", "at least", "against those made at export"], rows
    )
    print(
        f"Seeds {seeds[0]} to {seeds[-1]}. INT8 must be nearer to its images of then than those "
        "are to FP32."
    )


def check(found: Sequence[Alike], bundle: Bundle) -> None:
    """GateFailed names what makes other images here."""
    if wrong := [a.name for a in found if not a.same]:
        raise GateFailed(
            "E-PARITY",
            f"this machine makes other images than the export did: {', '.join(wrong)}",
            path=bundle.root,
        )


def _decibel(value: float) -> str:
    return "equal" if value == float("inf") else f"{value:.1f} dB"
