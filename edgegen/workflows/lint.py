"""Find the nodes of a graph that a runtime will refuse, compute wrongly or run slowly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.declared import declared
from ..core.graph_file import GraphFile
from ..core.reader import GRAPH_BYTES, read_bytes
from ..core.temporary import scratch
from ..errors import EdgegenError, GateFailed, InputError, RuntimeMissing, UsageError
from ..export import runtime
from .bundles import is_bundle, read_bundle, runtimes_of

if TYPE_CHECKING:
    from ..export.lint import Finding


@dataclass(frozen=True)
class LintFinding:
    """Hold one runtime's finding about one node of one file."""

    runtime: str
    file: Path
    finding: Finding

    def to_json(self) -> dict[str, Any]:
        return {"runtime": self.runtime, "file": str(self.file), **self.finding.to_json()}


@dataclass(frozen=True)
class LintResult:
    """Hold all findings; its errors are what a runtime refuses or computes wrongly."""

    model: str
    findings: Sequence[LintFinding]

    @property
    def errors(self) -> list[LintFinding]:
        return [one for one in self.findings if one.finding.level == "error"]

    def to_json(self) -> dict[str, Any]:
        """Return the document that `edgegen lint --json` prints, without its outer frame."""
        return {"model": self.model, "findings": [one.to_json() for one in self.findings]}


def lint_model(
    model: str | Path, runtimes: Sequence[str] | None = None, build: bool = False
) -> LintResult:
    """Check an ONNX file or a bundle's INT8 graphs against the rules of runtimes.

    `runtimes` None takes those of the bundle; `build` also gives each graph to the runtime itself.
    Raises GateFailed, with the LintResult as its `result`, if anything is refused or computed
    wrongly.
    """
    findings = [
        LintFinding(name, file.path, finding)
        for name, file in _files(model, runtimes)
        for finding in _findings(name, file, build)
    ]
    result = LintResult(str(model), findings)
    if wrong := result.errors:
        first = wrong[0]
        failed = GateFailed(
            "E-LINT",
            f"{len(wrong)} nodes that {first.runtime} refuses or computes wrongly, such as "
            f"{first.finding.node}: it {first.finding.what}",
            path=first.file,
            hint=first.finding.remedy,
            details={"findings": result.to_json()["findings"]},
        )
        failed.result = result
        raise failed
    return result


def _files(model: str | Path, runtimes: Sequence[str] | None) -> Iterator[tuple[str, GraphFile]]:
    """Yield each runtime with each ONNX file that is meant for it."""
    if is_bundle(model):
        bundle = read_bundle(model)
        for name in runtimes_of(bundle, runtimes):
            yield from (
                (name, bundle.graph_file(file)) for file in bundle.built(name).onnx.values()
            )
        return
    if runtimes is None:
        raise UsageError(
            "E-USAGE",
            "an ONNX file can only be checked for a named runtime",
            hint="add --runtime, such as tensorrt",
        )
    path = Path(model)
    file = GraphFile.of(path, read_bytes(path, GRAPH_BYTES, "E-ONNX-PARSE"))
    yield from ((name, file) for name in runtimes)


def _findings(name: str, file: GraphFile, build: bool) -> Iterator[Finding]:
    from ..export.check import checked
    from ..export.lint import Finding, lint

    data, model = checked(file)
    yield from lint(model, name)
    if build and (refused := _refusal(name, file.of_bytes(data))):
        remedy = refused.hint or "look at the node that the message names"
        yield Finding("error", "refused", "(model)", refused.message, remedy)


def _refusal(name: str, file: GraphFile) -> EdgegenError | None:
    """Return the error that the runtime itself raises for the file, or None; the file is first
    checked where it can do no harm.

    Raises RuntimeMissing if the runtime cannot be asked here.
    """
    target = runtime(name)
    with scratch() as folder:
        try:
            if not target.executable and target.cannot_run() is None:
                target.admit({"": file}, {"": declared(file.data())})
            copy = folder / "source" / file.path.name
            copy.parent.mkdir()
            copy.write_bytes(file.data())
            file.put_weights(copy.parent)
            built = target.build(copy, folder)
            if (why := target.cannot_run()) is None:
                target.load(built[0], 1)
            elif built[0].suffix == copy.suffix:  # this runtime builds only where it runs
                raise RuntimeMissing(
                    "E-BACKEND", f"{name} is not available here: {why}", hint="leave out --build"
                )
        except RuntimeMissing:
            raise
        except EdgegenError as error:
            return error
        except ValueError as error:
            return InputError("E-ONNX-PARSE", f"it is not available: {error}", path=file.path)
    return None
