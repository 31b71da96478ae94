"""edgegen lint: what a runtime will refuse, compute wrongly or run slowly of a graph, node by
node.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import EdgegenError, GateFailed, UsageError
from ..workflows import generators
from . import output

if TYPE_CHECKING:
    from ..export.lint import Finding


def lint(
    what: Annotated[str, typer.Argument(help="ONNX file or bundle folder.", metavar="MODEL")],
    runtime: Annotated[
        str | None, typer.Option(help="Comma-separated; of a bundle without it, every one it has.")
    ] = None,
    build: Annotated[
        bool, typer.Option("--build", help="Hand each graph to the runtime itself as well.")
    ] = False,
    json: output.Json = False,
) -> None:
    """Say what a runtime refuses or computes wrongly of a graph, node by node with the remedy; exit
    3 if anything.
    """
    findings, rows = [], []
    for name, file in _files(what, runtime):
        for found in _findings(name, file, build):
            findings.append({"runtime": name, "file": str(file), **found.to_json()})
            rows.append(
                [
                    found.level,
                    name,
                    file.stem,
                    found.node,
                    f"{found.what} ({found.rule})",
                    found.remedy,
                ]
            )
    output.table(["level", "runtime", "graph", "node", "what", "remedy"], rows)
    wrong = [f for f in findings if f["level"] == "error"]
    if wrong:
        first = wrong[0]
        raise GateFailed(
            "E-LINT",
            f"{len(wrong)} nodes that {first['runtime']} refuses or computes wrongly, such as "
            f"{first['node']}: it {first['what']}",
            path=first["file"],
            hint=first["remedy"],
            details={"findings": findings},
        )
    output.result("lint", {"model": what, "findings": findings})
    print(f"{len(findings)} warnings" if findings else "nothing to say")


def _files(what: str, runtime: str | None) -> Iterator[tuple[str, Path]]:
    """Each runtime with each ONNX file that is meant for it."""
    names = [n.strip() for n in runtime.split(",")] if runtime else None
    if not generators.is_bundle(what):
        if names is None:
            raise UsageError(
                "E-USAGE",
                "a model file is linted for a runtime",
                hint="add --runtime, such as tensorrt",
            )
        yield from ((name, Path(what)) for name in names)
        return
    bundle = generators.open_bundle(what)
    for name in names or bundle.manifest.runtimes:
        yield from ((name, bundle.path(file)) for file in bundle.built(name).onnx.values())


def _findings(name: str, file: Path, build: bool) -> Iterator[Finding]:
    from ..export.check import checked
    from ..export.lint import Finding, lint

    _, model = checked(file)
    yield from lint(model, name)
    if build and (refused := _refusal(name, file)):
        yield Finding(
            "error",
            "refused",
            "(model)",
            refused.message,
            refused.hint or "see the node that it names",
        )


def _refusal(name: str, file: Path) -> EdgegenError | None:
    """What the runtime itself says; RuntimeMissing where it cannot be asked."""
    from ..errors import RuntimeMissing
    from ..export import runtime

    target = runtime(name)
    with tempfile.TemporaryDirectory(prefix="edgegen-lint-") as folder:
        try:
            built = target.build(file, Path(folder))
            if (why := target.cannot_run()) is None:
                target.load(built[0], 1)
            elif built[0].suffix == file.suffix:  # it builds where it runs
                raise RuntimeMissing(
                    "E-BACKEND", f"{name} cannot be asked here: {why}", hint="leave --build away"
                )
        except RuntimeMissing:
            raise
        except EdgegenError as error:
            return error
    return None
