"""A bundle: everything a device needs, in one folder whose manifest lists every file with its
sha256.

    manifest.json   the list of files and how they are used
    graphs/         FP32 ONNX, one file per graph
    int8/<runtime>/ what that runtime loads, the Q/DQ ONNX it was built from, and the plan.json
                    from which both were made
    evidence/       reference statistics, pictures, comparisons
    README.md       the model card
    model.sig       the site's signature over all of them, if it signed

Reading is strict: an unlisted file, a link, a wrong size or a wrong hash is an error before any
native code sees the file. The manifest carries its own hash, which reveals damage; only the
signature proves who wrote it. docs/bundle.md describes the format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from ..errors import EdgegenError, InputError, TrustError, UsageError
from .bundle_files import BundleFiles
from .declared import Declared, declared
from .fp32_last_steps import with_fp32_steps
from .graph_file import GraphFile
from .held_session import HeldSession, loaded_by
from .keys import SiteKeys
from .latent import Latent
from .manifest import Built, ConditionedStart, Manifest
from .manifest_file import MANIFEST as MANIFEST
from .manifest_file import check_files, check_last_steps, read_manifest
from .manifest_file import digest as digest
from .manifest_file import write_manifest as write_manifest
from .reader import sha256 as sha256
from .rehearsal import ARRAYS_BYTES, bounded_sampler, rehearse
from .runtime import Compiling, Pipeline, Runtime, Session
from .samplers import sampler_from_json
from .signature import SIGNATURE, SIGNATURE_BYTES, Signed, check
from .start import read_start
from .weight_file import WeightFile
from .weights import SUFFIX as WEIGHTS

OPENINGS = 20  # attempts to open a bundle that is being replaced at the same time
Precision = Literal["int8", "fp32"]


@dataclass(frozen=True)
class Bundle:
    """An opened, checked bundle, which stays the same version even if the folder is replaced.

    signed: who signed it and as which release, if its signature was checked against keys;
    made_here: whether this process made it and therefore vouches for it.
    """

    root: Path
    manifest: Manifest
    files: BundleFiles = field(repr=False, compare=False)
    manifest_sha256: str
    signed: Signed | None = None
    made_here: bool = False

    @classmethod
    def open(cls, root: Path, keys: SiteKeys | None = None, made_here: bool = False) -> Bundle:
        """Open a bundle and check everything except the content that the runtimes parse.

        TrustError for damage, UsageError for another schema. With keys, also TrustError unless the
        owner of one of them signed exactly these files.
        """
        for left in reversed(range(OPENINGS)):
            files = BundleFiles(root)
            try:
                return cls._opened(files, keys, made_here)
            except EdgegenError:
                if files.is_current() or not left:
                    raise
                # A new bundle replaced this one while it was read, so try again with the new one.
        raise AssertionError("unreachable: the last opening returns or raises")

    @classmethod
    def _opened(cls, files: BundleFiles, keys: SiteKeys | None, made_here: bool) -> Bundle:
        root = files.root
        manifest, manifest_sha256 = read_manifest(files)
        check_files(files, manifest)
        bundle = cls(root, manifest, files, manifest_sha256, made_here=made_here)
        if keys is not None:
            if not bundle.is_signed:
                raise TrustError(
                    "E-SIGNATURE",
                    "the bundle is not signed",
                    path=root,
                    hint="edgegen sign BUNDLE --key KEY",
                )
            signature, _ = files.read(SIGNATURE, SIGNATURE_BYTES)
            signed = check(signature, root / SIGNATURE, bundle.digests(), keys)
            bundle = cls(root, manifest, files, manifest_sha256, signed, made_here)
        bundle._check_graphs()
        check_last_steps(manifest, root / MANIFEST)
        try:
            _ = bundle.latent
            bounded_sampler(manifest.sampler)
        except ValueError as error:
            raise bundle._refused(str(error)) from error
        sampler_from_json(manifest.sampler)
        return bundle

    def _refused(self, what: str) -> TrustError:
        return TrustError("E-MANIFEST", what, path=self.root / MANIFEST)

    def _check_graphs(self) -> None:
        """Raise TrustError if a runtime lacks a graph of the manifest, or a file is not listed."""
        manifest = self.manifest
        if isinstance(manifest.start, ConditionedStart) and (text := manifest.start.text):
            for name in (*text.graphs.values(), *text.tokenizer):
                self.path(name)
        for key, held in (("graphs", manifest.graphs), ("runtimes", manifest.runtimes)):
            if not held:
                raise self._refused(f"{key}: there are none")
        for files in (
            manifest.graphs,
            *(names for built in manifest.runtimes.values() for names in (built.load, built.onnx)),
        ):
            for name in files.values():
                self.path(name)
            if set(files) != set(manifest.graphs):
                raise self._refused(
                    f"the runtimes have other graphs than {', '.join(manifest.graphs)}"
                )

    @property
    def signed_by(self) -> str | None:
        """Return the fingerprint of the key that verified the signature, or None."""
        return None if self.signed is None else self.signed.fingerprint

    @property
    def is_vouched_for(self) -> bool:
        """Return whether this process made the bundle or a trusted key verified its signature."""
        return self.made_here or self.signed is not None

    def digests(self) -> dict[str, str]:
        """Return the sha256 of every file, including the manifest; a signature covers these."""
        return {
            MANIFEST: self.manifest_sha256,
            **{name: file.sha256 for name, file in self.manifest.files.items()},
        }

    @property
    def is_signed(self) -> bool:
        """Return whether the bundle has a signature file, verified or not."""
        return self.files.holds(SIGNATURE)

    def path(self, name: str) -> Path:
        """Return the path of a listed file, for messages; `read` gives its bytes.

        TrustError if the manifest does not list it.
        """
        if name not in self.manifest.files:
            raise self._refused(f"{name} is used but not listed")
        return self.root / name

    def read(self, name: str) -> bytes:
        """Return the bytes of a listed file. TrustError if they no longer match the manifest."""
        path = self.path(name)
        listed = self.manifest.files[name]
        data, found = self.files.read(name, listed.bytes)
        if found != listed.sha256:
            raise TrustError("E-HASH", "it was changed while the bundle was open", path=path)
        return data

    def graph_file(self, name: str) -> GraphFile:
        """Return a listed file, with access to the files beside it, as a runtime takes it.

        If nobody vouches for the bundle, load only what `admitted` returned.
        """
        folder = name.rpartition("/")[0]

        def read(other: str) -> bytes | None:
            beside = f"{folder}/{other}" if folder else other
            return self.read(beside) if beside in self.manifest.files else None

        weights = None
        beside = f"{name.removesuffix('.onnx')}{WEIGHTS}"
        if name.endswith(".onnx") and beside in self.manifest.files:
            listed = self.manifest.files[beside]
            weights = WeightFile(listed.bytes, lambda: listed.sha256, partial(self._copy, beside))
        return GraphFile(self.path(name), read, self.is_vouched_for, weights)

    def _copy(self, name: str, target: Path) -> str:
        """Copy a listed file. TrustError if its bytes no longer match the manifest."""
        found = self.files.copy(name, target)
        if found != self.manifest.files[name].sha256:
            raise TrustError(
                "E-HASH", "it was changed while the bundle was open", path=self.path(name)
            )
        return found

    def built(self, name: str) -> Built:
        """Return the INT8 files for the runtime `name`. UsageError if the bundle has none."""
        if name not in self.manifest.runtimes:
            known = ", ".join(self.manifest.runtimes)
            raise UsageError(
                "E-BUNDLE-RUNTIME",
                f"the bundle has no INT8 files for {name}; it has {known}",
                path=self.root,
            )
        return self.manifest.runtimes[name]

    @cached_property
    def declared(self) -> dict[str, Declared]:
        """The inputs and the output that each FP32 graph declares, by graph.

        InputError for an ONNX file that does not declare them, TrustError if they do not fit the
        sampler and the latent.
        """
        names = self.manifest.graphs
        graphs = {graph: self._declared(self.graph_file(name)) for graph, name in names.items()}
        try:
            rehearse(sampler_from_json(self.manifest.sampler), self.latent, graphs)
        except ValueError as error:
            raise self._refused(f"the manifest does not fit its graphs: {error}") from error
        return graphs

    def _declared(self, file: GraphFile) -> Declared:
        try:
            return declared(file.data())
        except ValueError as error:
            raise InputError(
                "E-ONNX-PARSE", f"not a usable ONNX file: {error}", path=file.path
            ) from error

    @cached_property
    def latent(self) -> Latent:
        """The noise and conditions that the sampler starts from. ValueError if they are invalid."""

        def arrays(name: str) -> bytes:
            path = self.path(name)
            if self.manifest.files[name].bytes > ARRAYS_BYTES:
                raise ValueError(f"start.arrays: {path.name} is larger than {ARRAYS_BYTES} bytes")
            return self.read(name)

        return read_start(self.manifest.start, arrays)

    def admitted(self, runtime: Runtime, names: Mapping[str, str]) -> dict[str, GraphFile]:
        """Return the files by graph that `runtime` may load.

        EdgegenError for a file of a kind that the runtime does not load, or, if nobody vouches for
        the bundle, for a file that the runtime's own check refuses.
        """
        files = self._of_kind(names, runtime.suffixes)
        if not runtime.executable:
            self._admit(runtime, files)
        return files

    def sources(self, runtime: Runtime, precision: Precision) -> dict[str, GraphFile]:
        """Return the ONNX files by graph from which `runtime` may build its own files.

        EdgegenError as in `admitted`.
        """
        files = self._of_kind(self.onnx(runtime, precision), (".onnx",))
        self._admit(runtime, files)
        return files

    def _of_kind(self, names: Mapping[str, str], suffixes: tuple[str, ...]) -> dict[str, GraphFile]:
        """Raise TrustError for a file with another suffix, which decides what loading may do."""
        files = {graph: self.graph_file(name) for graph, name in names.items()}
        for graph, file in files.items():
            if file.path.suffix not in suffixes:
                raise TrustError(
                    "E-MANIFEST",
                    f"a file that is to be loaded must be {' or '.join(suffixes)}",
                    path=file.path,
                )
            if file.path.suffix == ".onnx" and self._declared(file) != self.declared[graph]:
                raise self._refused(f"{file.path.name} takes or gives other tensors than {graph!r}")
        return files

    def _admit(self, runtime: Runtime, files: Mapping[str, GraphFile]) -> None:
        if not self.is_vouched_for and files:
            runtime.admit(files, {graph: self.declared[graph] for graph in files})

    def sessions(
        self, runtime: Runtime, names: Mapping[str, str], threads: int
    ) -> dict[str, Session]:
        """Load files by graph in `runtime`; each session is held to the declared output."""
        files = self.admitted(runtime, names)
        loads = {
            g: (partial(runtime.session, file, threads), file.path) for g, file in files.items()
        }
        return self._held(loads)

    def pipeline(
        self,
        runtime: Runtime,
        precision: Precision = "int8",
        threads: int = 1,
        batch: int = 64,
        trust_engines: bool = False,
    ) -> Pipeline:
        """Return the pipeline that turns seeds into images on `runtime`.

        batch: images per call. UsageError if the bundle was not built for that runtime, TrustError
        for engines that nobody vouches for.
        """
        local = self.built_here(runtime, precision)
        if precision == "int8":
            self.vouched(runtime, trust_engines or bool(local))
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
        call = self._kept(runtime, local, threads) or self.sessions(runtime, files, threads)
        until = self.built(runtime.name).until if precision == "int8" else {}
        if until:
            full = {graph: self.manifest.graphs[graph] for graph in until}
            built = self._compiled(runtime, full)
            exact = self._kept(runtime, built, threads) or self.sessions(runtime, full, threads)
            call = with_fp32_steps(call, exact, until)
        return self.of(call, batch)

    def of(self, call: Mapping[str, Session], batch: int = 64) -> Pipeline:
        """Return the pipeline that runs the bundle's sampler with these sessions by graph."""
        return Pipeline(self.latent, sampler_from_json(self.manifest.sampler), call, batch)

    def _kept(
        self, runtime: Runtime, built: Mapping[str, Path], threads: int
    ) -> dict[str, Session]:
        """Load the files that this machine built before."""
        return self._held({g: (partial(runtime.load, p, threads), p) for g, p in built.items()})

    def _held(self, loads: Mapping[str, tuple[Callable[[], Session], Path]]) -> dict[str, Session]:
        loaded = {graph: loaded_by(load, path) for graph, (load, path) in loads.items()}
        return {
            graph: HeldSession(session, self.declared[graph].output, loads[graph][1])
            for graph, session in loaded.items()
        }

    def vouched(self, runtime: Runtime, trusted: bool) -> None:
        """Check that the bundle's INT8 files for `runtime` may be loaded.

        UsageError if the bundle has none, TrustError for engines that nobody vouches for and for a
        manifest that wrongly says whether they are executable code.
        """
        self.check_code(runtime)
        if runtime.executable and not trusted and not self.is_vouched_for:
            what = f"{runtime.name} engines are executable code and nobody vouches for this bundle"
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

    def check_code(self, runtime: Runtime) -> None:
        """Raise TrustError if the manifest wrongly says whether the runtime's files are code."""
        if self.built(runtime.name).code != runtime.executable:
            kind = "engines, which are code" if runtime.executable else "graphs, which are no code"
            raise self._refused(f"runtimes.{runtime.name}.code: {runtime.name} executes {kind}")

    def onnx(self, runtime: Runtime, precision: Precision) -> dict[str, str]:
        """Return the names of the ONNX files, by graph, from which `runtime`'s files are built.

        INT8 files are empty if the bundle has none for that runtime.
        """
        built = self.manifest.runtimes.get(runtime.name)
        return dict(self.manifest.graphs if precision == "fp32" else built.onnx if built else {})

    def built_here(self, runtime: Runtime, precision: Precision) -> dict[str, Path]:
        """Return what this machine built before, by graph, or {} if any graph is missing."""
        return self._compiled(runtime, self.onnx(runtime, precision))

    def _compiled(self, runtime: Runtime, names: Mapping[str, str]) -> dict[str, Path]:
        if not isinstance(runtime, Compiling) or runtime.cannot_run():
            return {}
        built = {}
        for graph, name in names.items():
            if (path := runtime.compiled(self.graph_file(name))) is None:
                return {}
            built[graph] = path
        return built
