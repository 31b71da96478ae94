"""Open and check bundles, and make images with them by numpy and a runtime."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.progress import Listener, silent
from ..core.reader import Places
from ..errors import InputError, RuntimeMissing, TrustError, UsageError
from .limits import Limit, check_numbers

if TYPE_CHECKING:
    import numpy as np

    from ..core.bundle import Bundle, Precision
    from ..core.manifest import Manifest
    from ..core.runtime import Pipeline
    from .prompts import Encoders


@dataclass(frozen=True)
class Execution:
    """Say what executes a bundle, and under which conditions."""

    runtime: str | None = None  # None: the first of the bundle that works here
    precision: str = "int8"  # or fp32, for the full-precision graphs
    threads: int = 1  # CPU threads
    trust_engines: bool = False  # execute GPU engines that no signature vouches for
    allow_cpu: bool = False  # let the CPU execute what cannot run as asked

    def __post_init__(self) -> None:
        check_numbers(self, threads=Limit(1, 1024))


class OpenedBundle:
    """Make images from a checked bundle; threads may share it, and one call runs at a time."""

    def __init__(self, bundle: Bundle, listen: Listener = silent) -> None:
        self._bundle, self._listen = bundle, listen
        self._pipelines: dict[Execution, Pipeline] = {}
        self._encoders: dict[int, Encoders] = {}
        self._one_call = threading.Lock()

    @property
    def manifest(self) -> Manifest:
        """Return what the bundle says of itself: files, graphs, sampler and evidence."""
        return self._bundle.manifest

    @property
    def signed_by(self) -> str | None:
        """Return the fingerprint of the public key that the signature was checked with, or None
        without one.
        """
        return self._bundle.signed_by

    @property
    def release(self) -> int | None:
        """Return the release number that was signed; None without one, or without a public key."""
        return None if self._bundle.signed is None else self._bundle.signed.release

    @property
    def prompts(self) -> tuple[str, ...]:
        """Return the prompts that the bundle holds encoded and seeds take in turn; empty if it has
        none.
        """
        bank = self._bundle.latent.prompts
        return () if bank is None else bank.texts

    def generate(
        self,
        seeds: Sequence[int],
        runtime: str | Execution | None = None,
        precision: str = "int8",
        label: int | None = None,
        threads: int = 1,
        prompt: str | None = None,
        negative: str | None = None,
    ) -> np.ndarray:
        """Make images (n, h, w, 3) uint8; image k depends on seeds[k], the label and the prompts
        alone.

        `runtime` is the name of one, None for the bundle's first that works here, or an Execution,
        which replaces `precision` and `threads`. `label` is the class of all images; None gives
        seed modulo the number of classes. `prompt` is what all images show; None takes the bundle's
        own in turn by seed. `negative` is what they should not show. Graphs are loaded at the first
        call and kept.
        """
        from .prompts import encoders_of, prompted

        if isinstance(runtime, Execution):
            execution = runtime
        else:
            execution = Execution(runtime, precision, threads)
        with self._one_call:
            if execution.threads not in self._encoders:
                self._encoders[execution.threads] = encoders_of(self._bundle, execution.threads)
            encoders = self._encoders[execution.threads]
            latent = prompted(self._bundle.latent, prompt, negative, encoders, self._listen)
            if execution not in self._pipelines:
                self._pipelines[execution] = pipeline_of(self._bundle, execution)[1]
            pipeline = replace(self._pipelines[execution], latent=latent)
            return images_of(pipeline, seeds, label, self._listen)


def open_bundle(
    folder: str | Path,
    public_key: Places = None,
    least_release: int | None = None,
    listen: Listener = silent,
) -> OpenedBundle:
    """Open and check a bundle folder; with public keys (files, or a folder of them), refuse one
    that none of their owners signed, or signed as an older release than the least.

    Raises InputError for a folder that is no bundle, TrustError for one that is damaged or not
    signed.
    """
    return OpenedBundle(read_bundle(folder, public_key, least_release), listen)


def is_bundle(folder: str | Path) -> bool:
    """Return whether the folder has a manifest, without reading it."""
    # isfile is False, and no error, for a name that is too long
    return os.path.isfile(Path(folder) / "manifest.json")


def read_bundle(
    folder: str | Path, public_key: Places = None, least_release: int | None = None
) -> Bundle:
    """Open and check a bundle for other workflows; open_bundle wraps it for programs.

    The code of edgegen, and nothing in the bundle, decides which of its files are executable code.
    Raises InputError or TrustError.
    """
    if not os.path.isdir(folder):
        raise InputError("E-BUNDLE", "there is no such folder", path=folder)
    from ..core.bundle import Bundle
    from ..core.keys import site_keys
    from ..export import RUNTIMES, runtime

    bundle = Bundle.open(Path(folder), site_keys(public_key, least_release))
    for name in bundle.manifest.runtimes:
        if name not in RUNTIMES:
            raise TrustError(
                "E-MANIFEST",
                f"runtimes: it has files for {name!r}, which edgegen does not know",
                path=bundle.root / "manifest.json",
            )
        bundle.check_code(runtime(name))
    return bundle


def runtimes_of(bundle: Bundle, names: Sequence[str] | None) -> list[str]:
    """Return the named runtimes, or all of the bundle. Raises UsageError for one that it has no
    files for.
    """
    chosen = list(bundle.manifest.runtimes if names is None else names)
    for name in chosen:
        bundle.built(name)
    return chosen


def precision_of(word: str) -> Precision:
    """Return the precision of that name. Raises UsageError unless it is int8 or fp32."""
    if word not in ("int8", "fp32"):
        raise UsageError("E-USAGE", f"--precision must be int8 or fp32, got {word!r}")
    return "fp32" if word == "fp32" else "int8"


def pipeline_of(
    bundle: Bundle, execution: Execution, listen: Listener = silent
) -> tuple[str, Pipeline]:
    """Return a description of what executes the bundle, for people, and the pipeline.

    Raises RuntimeMissing if nothing can execute it, and TrustError for engines that nobody vouches
    for.
    """
    from ..export import runtime as find
    from .executor import executor, insist, int8

    wanted, trusted = execution.runtime, execution.trust_engines
    precision = precision_of(execution.precision)
    if wanted is None:
        reasons = {name: find(name).cannot_run() for name in bundle.manifest.runtimes}
        if all(reasons.values()):
            raise RuntimeMissing(
                "E-BACKEND",
                "none of the bundle's runtimes works here: "
                + "; ".join(f"{name}: {why}" for name, why in reasons.items()),
                path=bundle.root,
            )
        name = next(name for name, why in reasons.items() if why is None)
    else:
        name = wanted
        if precision == "int8":
            here = bool(bundle.built_here(find(name), "int8"))
            bundle.vouched(find(name), trusted or execution.allow_cpu or here)
        insist([name], execution.allow_cpu, listen)
    host = executor(name)
    if precision == "fp32":
        return f"{host} fp32", bundle.pipeline(
            find(host), "fp32", execution.threads, trust_engines=trusted
        )
    pipeline = int8(bundle, name, execution.threads, trusted)
    return f"{name} int8" + ("" if host == name else f", executed by {host} on the CPU"), pipeline


def images_of(
    pipeline: Pipeline, seeds: Sequence[int], label: int | None, listen: Listener = silent
) -> np.ndarray:
    """Make images (n, h, w, 3) uint8 from seeds that a user chose.

    Raises UsageError for a label that the generator does not have, or without seeds.
    """
    import numpy as np

    from ..core.images import to_uint8

    latent = pipeline.latent
    if label is not None and not 0 <= label < latent.classes:
        has = (
            "takes prompts and no label: --prompt"
            if latent.prompts
            else f"has {latent.classes} classes, numbered from 0"
        )
        raise UsageError("E-LABEL", f"--label {label}: this generator {has}")
    pipeline = replace(pipeline, latent=latent.undivided())
    if not len(seeds):
        raise UsageError("E-SEED", "there are no seeds to make images from")
    parts = []
    with listen.progress("generating", len(seeds)) as advance:
        for start in range(0, len(seeds), pipeline.batch):
            batch = seeds[start : start + pipeline.batch]
            parts.append(to_uint8(pipeline(batch, label)))
            advance(len(batch))
    return np.concatenate(parts)
