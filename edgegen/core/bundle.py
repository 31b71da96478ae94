"""A bundle: everything a device needs, in one folder whose manifest lists every file with its
sha256.

    manifest.json   what this file describes
    graphs/         FP32 ONNX, one a graph
    int8/<runtime>/ what that runtime loads, the Q/DQ ONNX it was built from, and plan.json
                    behind both
    evidence/       reference statistics, pictures, comparisons
    README.md       the model card
    model.sig       the site's signature over all of them, if it signed

Reading is strict: a file that is not listed, a link, another size or another hash is an error,
before native code sees it. The manifest carries the hash of itself, which shows damage; who wrote
it only the signature shows. docs/bundle.md has the format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import ValidationError

from ..errors import EdgegenError, InputError, TrustError, UsageError
from ..version import __version__
from .files import JsonObject, read_json, to_json
from .fp32_last_steps import with_fp32_steps
from .latent import Latent
from .manifest import Built, Manifest
from .runtime import Compiling, Pipeline, Runtime
from .samplers import sampler_from_json
from .signature import SIGNATURE, check
from .spec import TensorSpec

MANIFEST = "manifest.json"
UNLISTED = (MANIFEST, SIGNATURE)  # which no manifest can list: itself, and what is made of it
SCHEMA = 1
Precision = Literal["int8", "fp32"]


@dataclass(frozen=True)
class Bundle:
    """An opened, checked bundle; signed_by: fingerprint of the key that its signature was held to,
    if it was.
    """

    root: Path
    manifest: Manifest
    signed_by: str | None = None

    @classmethod
    def open(cls, root: Path, public_key: Path | None = None) -> Bundle:
        """Read and check everything but what the runtimes parse. TrustError for damage, UsageError
        for another schema.

        With a public key, a bundle that its owner did not sign as it is here is a TrustError too.
        """
        manifest = _read_manifest(root)
        _check_files(root, manifest)
        bundle = cls(root, manifest)
        if public_key is not None:
            bundle = cls(root, manifest, check(root, bundle.digests(), public_key))
        bundle._check_graphs()
        _check_last_steps(manifest, root / MANIFEST)
        sampler_from_json(manifest.sampler)
        start = manifest.start
        if not start.shape or min(start.shape) < 1 or start.classes < 0:
            raise TrustError(
                "E-MANIFEST", f"start: cannot begin from {start}", path=root / MANIFEST
            )
        return bundle

    def _check_graphs(self) -> None:
        """TrustError where a runtime has not every graph of the manifest, or a file of one is not
        listed.
        """
        manifest = self.manifest
        for files in (
            manifest.graphs,
            *(names for built in manifest.runtimes.values() for names in (built.load, built.onnx)),
        ):
            for name in files.values():
                self.path(name)
            if set(files) != set(manifest.graphs):
                raise TrustError(
                    "E-MANIFEST",
                    f"the runtimes have other graphs than {', '.join(manifest.graphs)}",
                    path=self.root / MANIFEST,
                )

    def digests(self) -> dict[str, str]:
        """sha256 of every file, the manifest included: what a signature is over."""
        return {
            MANIFEST: sha256(self.root / MANIFEST),
            **{name: file.sha256 for name, file in self.manifest.files.items()},
        }

    @property
    def is_signed(self) -> bool:
        """Whether there is a signature, held to a key or not."""
        return (self.root / SIGNATURE).is_file()

    def path(self, name: str) -> Path:
        """A listed file."""
        if name not in self.manifest.files:
            raise TrustError(
                "E-MANIFEST", f"{name} is used but not listed", path=self.root / MANIFEST
            )
        return self.root / name

    def built(self, name: str) -> Built:
        """The INT8 files of that runtime. UsageError if there are none."""
        if name not in self.manifest.runtimes:
            known = ", ".join(self.manifest.runtimes)
            raise UsageError(
                "E-BUNDLE-RUNTIME",
                f"the bundle has no INT8 files for {name}; it has {known}",
                path=self.root,
            )
        return self.manifest.runtimes[name]

    def pipeline(
        self,
        runtime: Runtime,
        precision: Precision = "int8",
        threads: int = 1,
        batch: int = 64,
        trust_engines: bool = False,
    ) -> Pipeline:
        """Seeds to images on `runtime`. UsageError if the bundle was not built for it, TrustError
        for unvouched engines.
        """
        local = self.built_here(runtime, precision)
        if precision == "int8":
            self.vouched(runtime.name, trust_engines or bool(local))
            files: Mapping[str, str] = self.built(runtime.name).load
        elif runtime.executable and not local:
            what = (
                f"{runtime.name} executes engines, and the full-precision graphs of a bundle "
                "are ONNX"
            )
            raise UsageError(
                "E-BUNDLE-RUNTIME",
                what,
                path=self.root,
                hint="choose another runtime for fp32, or build them here: edgegen build "
                "--precision fp32",
            )
        else:
            files = self.manifest.graphs
        call = {
            graph: runtime.load(local.get(graph) or self.path(name), threads)
            for graph, name in files.items()
        }
        until = self.built(runtime.name).until if precision == "int8" else {}
        if until:
            full = {graph: self.path(self.manifest.graphs[graph]) for graph in until}
            exact = {
                graph: runtime.load(_here(runtime, path) or path, threads)
                for graph, path in full.items()
            }
            call = with_fp32_steps(call, exact, until)
        start = self.manifest.start
        latent = Latent(TensorSpec("x", ("batch", *start.shape)), start.classes)
        return Pipeline(latent, sampler_from_json(self.manifest.sampler), call, batch)

    def vouched(self, name: str, trusted: bool) -> None:
        """UsageError when the bundle has nothing for that runtime, TrustError when it has engines
        that nobody vouches for.
        """
        if self.built(name).code and not trusted and self.signed_by is None:
            what = f"{name} engines are executable code and nobody vouches for this bundle"
            hint = (
                "give its signer's --public-key"
                if self.is_signed
                else "add --trust-engines if you trust its maker"
            )
            raise TrustError(
                "E-ENGINE-UNTRUSTED",
                what,
                path=self.root,
                hint=f"{hint}, or build them here: edgegen build",
            )

    def onnx(self, runtime: Runtime, precision: Precision) -> dict[str, Path]:
        """The ONNX files behind what `runtime` loads, by graph; none if the bundle has none for
        it.
        """
        built = self.manifest.runtimes.get(runtime.name)
        names = self.manifest.graphs if precision == "fp32" else built.onnx if built else {}
        return {graph: self.path(name) for graph, name in names.items()}

    def built_here(self, runtime: Runtime, precision: Precision) -> dict[str, Path]:
        """What this machine built of them before, by graph; nothing unless all of it is there."""
        built = {
            graph: _here(runtime, path) for graph, path in self.onnx(runtime, precision).items()
        }
        return (
            {graph: path for graph, path in built.items() if path is not None}
            if all(built.values())
            else {}
        )


def _here(runtime: Runtime, onnx: Path) -> Path | None:
    """What this machine built of that file before."""
    return (
        runtime.compiled(onnx)
        if isinstance(runtime, Compiling) and not runtime.cannot_run()
        else None
    )


def write_manifest(root: Path, manifest: JsonObject) -> Manifest:
    """List and hash every file under `root`, check the whole, write manifest.json last.
    EdgegenError if it would not open.
    """
    names = sorted(
        name
        for p in root.rglob("*")
        if p.is_file() and (name := p.relative_to(root).as_posix()) not in UNLISTED
    )
    files = {
        name: {"sha256": sha256(root / name), "bytes": (root / name).stat().st_size}
        for name in names
    }
    data = {"schema_version": SCHEMA, "edgegen": __version__, "files": files, **manifest}
    data["sha256"] = digest(data)
    try:
        checked = Manifest.model_validate(data)
    except ValidationError as error:
        raise EdgegenError(
            "E-MANIFEST", f"edgegen made a manifest it would refuse: {error}"
        ) from error
    (root / MANIFEST).write_bytes(to_json(data))
    return checked


def digest(data: JsonObject) -> str:
    """What a manifest's own "sha256" must be."""
    return hashlib.sha256(to_json({k: v for k, v in data.items() if k != "sha256"})).hexdigest()


def sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _read_manifest(root: Path) -> Manifest:
    """The manifest as it was written. InputError where there is none, TrustError for another file,
    UsageError for a schema of the future.
    """
    path = root / MANIFEST
    if not path.is_file() or path.is_symlink():
        raise InputError(
            "E-BUNDLE", "this folder is not a bundle: it has no manifest.json", path=root
        )
    try:
        data = read_json(path)
    except InputError as error:
        raise TrustError("E-MANIFEST", error.message, path=path) from error
    if (
        not isinstance(data, dict)
        or data.get("sha256") != digest(data)
        or path.read_bytes() != to_json(data)
    ):
        raise TrustError(
            "E-HASH",
            "manifest.json is not the file that was written",
            path=path,
            hint="copy the bundle again",
        )
    schema = data.get("schema_version")
    if isinstance(schema, int) and schema > SCHEMA:
        raise UsageError(
            "E-SCHEMA",
            f"the bundle has schema {schema}; edgegen {__version__} reads up to {SCHEMA}",
            path=path,
        )
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise TrustError("E-MANIFEST", f"{where}: {first['msg']}", path=path) from error


def _check_last_steps(manifest: Manifest, path: Path) -> None:
    """TrustError where a runtime would run its last steps in FP32 and cannot."""
    for name, built in manifest.runtimes.items():
        if unknown := sorted(built.until.keys() - manifest.graphs.keys()):
            raise TrustError(
                "E-MANIFEST",
                f"runtimes.{name}.until: there is no graph {unknown[0]}",
                path=path,
            )
        if built.until and built.code:
            raise TrustError(
                "E-MANIFEST",
                f"runtimes.{name}.until: engines cannot change to FP32 between steps",
                path=path,
            )


def _check_files(root: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        pure = PurePosixPath(name)
        if (
            pure.is_absolute()
            or pure.as_posix() != name
            or name in UNLISTED
            or not name.isprintable()
            or any(part in ("..", ".") or "\\" in part for part in pure.parts)
        ):
            raise TrustError(
                "E-MANIFEST", f"the file name {name!r} is not allowed", path=root / MANIFEST
            )
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise TrustError("E-MANIFEST", f"{name} is a link or a device, not a file", path=root)
        if path.is_file() and name not in UNLISTED and name not in manifest.files:
            raise TrustError("E-MANIFEST", f"{name} is not listed in the manifest", path=root)
    for name, file in manifest.files.items():
        path = root / name
        if not path.is_file():
            raise TrustError("E-MANIFEST", f"{name} is missing", path=root)
        if path.stat().st_size != file.bytes or sha256(path) != file.sha256:
            raise TrustError(
                "E-HASH",
                f"{name} is not the file that was exported",
                path=root,
                hint="copy the bundle again",
            )
