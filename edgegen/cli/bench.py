"""edgegen bench: measure how fast bundles are on this machine, and how close their images are to
full precision.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.counting import counted
from ..errors import GateFailed, UsageError
from . import output
from .options import (
    LeastRelease,
    MaxRuined,
    MinPsnr,
    Overwrite,
    PublicKey,
    Runtimes,
    TrustEngines,
    names_of,
    ruined_of,
)

if TYPE_CHECKING:
    from ..workflows.bench import BenchResult
    from ..workflows.bench_report.run import BenchReport


# Options of a report. With one bundle and none of these options, only the mean step is timed.
OF_A_REPORT = (
    *("report", "gate", "runtime", "overwrite", "pairs", "min_psnr", "max_ruined"),
    *("zoo", "steps", "work", "peer", "in_torch"),
)


def bench(
    context: typer.Context,
    what: Annotated[
        list[str] | None, typer.Argument(help="Bundle folders.", metavar="BUNDLE")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Folder to write a report to: a page, tables, charts and bench.json."),
    ] = None,
    gate: Annotated[
        Path | None,
        typer.Option(help="TOML file with the limits for each row; exit 3 if a limit is exceeded."),
    ] = None,
    pairs: Annotated[
        int,
        typer.Option(help="Number of seeds whose images are compared with full precision.", min=1),
    ] = 64,
    runtime: Runtimes = None,
    min_psnr: MinPsnr = 35.0,
    max_ruined: MaxRuined = "0.2%",
    batch: Annotated[int, typer.Option(help="Number of images in a call.", min=1)] = 8,
    rounds: Annotated[
        int,
        typer.Option(help="Number of timed rounds, which alternate between all candidates.", min=5),
    ] = 25,
    threads: Annotated[
        int, typer.Option(help="Number of CPU threads for each runtime.", min=1)
    ] = 1,
    zoo: Annotated[
        bool,
        typer.Option(
            "--zoo",
            help="Measure the zoo's generators too. A missing bundle is exported first, which "
            "takes 10 to 25 minutes each; finished bundles are kept, and the same command "
            "continues after an interruption.",
        ),
    ] = False,
    steps: Annotated[
        str | None,
        typer.Option(
            help="Sampler steps for the zoo's exports, such as 1,2,4 (default: each generator's "
            "own). A bundle always runs with the steps that it was exported with."
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder for the zoo's exports (default: REPORT-bundles)."),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="Another toolkit (onnxruntime, nncf, modelopt or olive) and the Python "
            "interpreter that has it installed: its INT8 version of the same graphs is measured "
            "too. Repeat the option for each toolkit.",
            metavar="NAME=PYTHON",
        ),
    ] = None,
    in_torch: Annotated[
        bool,
        typer.Option(
            "--torch",
            help="For the zoo's generators, also measure full precision in torch, both "
            "uncompiled and compiled.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    public_key: PublicKey = None,
    least_release: LeastRelease = None,
    trust_engines: TrustEngines = False,
    json: output.Json = False,
) -> None:
    """Time the mean sampler step of a bundle. With several bundles, --report or one of its options,
    time the way from seed to image and compare the images with full precision.
    """
    if not what and not zoo:
        raise UsageError("E-USAGE", "name a bundle, or add --zoo")
    sources = (context.get_parameter_source(name) for name in OF_A_REPORT)
    if (
        what
        and len(what) == 1
        and all(source is None or source.name == "DEFAULT" for source in sources)
    ):
        from ..workflows.bench import BenchSettings, bench_bundle

        settings = BenchSettings(batch, rounds, threads, public_key, trust_engines, least_release)
        found = bench_bundle(what[0], settings, output.terminal)
        _show(found)
        output.result("bench", found.to_json())
        return
    from ..workflows.bench_report.run import BenchReportSettings, bench_bundles

    asked = BenchReportSettings(
        batch=batch,
        rounds=rounds,
        threads=threads,
        pairs=pairs,
        runtimes=None if runtime is None else names_of(runtime),
        min_psnr_db=min_psnr,
        max_ruined=ruined_of(max_ruined),
        gates=gate,
        zoo=zoo,
        zoo_steps=None if steps is None else steps_of(steps),
        zoo_folder=work,
        torch=in_torch,
        peers=dict(map(peer_of, peer or ())),
        overwrite=overwrite,
        public_key=public_key,
        trust_engines=trust_engines,
        least_release=least_release,
    )
    try:
        made = bench_bundles(what or (), report, asked, output.terminal)
    except GateFailed as failed:
        _show_rows(failed.result)
        raise
    _show_rows(made)
    output.result("bench", made.to_json())


def steps_of(text: str) -> list[int]:
    """Return the value of --steps as numbers. Raises UsageError if it is not a list of whole
    numbers.
    """
    try:
        return list(dict.fromkeys(int(word) for word in text.split(",")))
    except ValueError as error:
        raise UsageError(
            "E-USAGE", f"--steps must be whole numbers such as 1,2,4, got {text!r}"
        ) from error


def peer_of(text: str) -> tuple[str, str]:
    """Return the tool and its Python from the value of --peer; "" means the Python that runs
    edgegen.
    """
    name, _, python = text.partition("=")
    return name, python


def _show_rows(made: BenchReport) -> None:
    from ..evidence.bench_tables import cells, headings, reasons

    output.table(headings(made.document), [cells(made.document, r) for r in made.document.rows])
    for reason in reasons(made.document):
        output.note(reason)
    if made.out is not None:
        print(f"report: {made.out / 'index.html'}")


def _show(found: BenchResult) -> None:
    from ..workflows.executor import label

    base = found.fastest_full
    rows = [
        [
            name,
            "ok",
            *(f"{ms:.2f}" for ms in (t.cpu_ms, t.cpu_p90_ms, t.wall_ms, t.wall_p90_ms)),
            f"{base / t.cpu_ms:.2f} x" if base else "-",
        ]
        for name, t in sorted(found.latency.items())
    ]
    rows += [[label(n), f"skipped: {why}", "", "", "", "", ""] for n, why in found.skipped.items()]
    output.table(
        ["runtime", "state", "CPU ms", "p90", "wall ms", "p90", "against fastest FP32"], rows
    )
    asked = found.settings
    print(
        f"Times are of the mean sampler step of a trajectory: batch {asked.batch}, "
        f"{counted(asked.threads, 'thread')}, medians of {asked.rounds} interleaved rounds."
    )
