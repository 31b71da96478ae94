"""Check that this machine makes the images that were made where the bundle was. It needs no torch
and no feature network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..core.progress import Listener
from ..errors import RuntimeMissing, UsageError
from ..evidence import golden_images

if TYPE_CHECKING:
    from ..core.bundle import Bundle
    from ..evidence.golden_images import Alike, Kept


def kept_images(bundle: Bundle) -> Kept:
    """Return the images that the export kept. Raises UsageError if the bundle has none."""
    if golden_images.FILE not in bundle.manifest.files:
        raise UsageError(
            "E-BUNDLE",
            "the bundle contains no images to compare with (it was made by edgegen "
            f"{bundle.manifest.edgegen})",
            path=bundle.root,
            hint="export the generator again, or add --files-only",
        )
    return golden_images.parsed(bundle.read(golden_images.FILE), bundle.path(golden_images.FILE))


def repeated(
    bundle: Bundle,
    kept: Kept,
    names: Sequence[str],
    threads: int,
    trust_engines: bool,
    listen: Listener,
) -> tuple[list[Alike], dict[str, str]]:
    """Compare each runtime's FP32 and INT8 images with the kept ones; return the comparisons, and
    why other runtimes could not run.

    Raises RuntimeMissing if none can.
    """
    from ..core.images import to_uint8
    from ..export import runtime

    skipped = {n: why for n in names if (why := runtime(n).cannot_run())}
    if len(skipped) == len(names):
        raise RuntimeMissing(
            "E-BACKEND", "; ".join(f"{n}: {why}" for n, why in skipped.items()), path=bundle.root
        )
    alike = []
    with listen.progress("generating the same seeds", len(names) - len(skipped)) as advance:
        for name in names:
            if name in skipped:
                continue
            target = runtime(name)
            int8 = bundle.pipeline(target, "int8", threads, trust_engines=trust_engines)
            if not target.executable:
                full = bundle.pipeline(target, "fp32", threads)
                alike.append(golden_images.full(kept, name, to_uint8(full(kept.seeds))))
            alike.append(golden_images.int8(kept, name, to_uint8(int8(kept.seeds))))
            advance(1)
    return alike, skipped
