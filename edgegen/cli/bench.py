"""edgegen bench: how fast a bundle is on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import output
from .options import BundleFolder, LeastRelease, PublicKey, TrustEngines

if TYPE_CHECKING:
    from ..workflows.bench import BenchResult


def bench(
    what: BundleFolder,
    batch: Annotated[int, typer.Option(help="Images a call.", min=1)] = 8,
    rounds: Annotated[
        int, typer.Option(help="Timed rounds, interleaved over all candidates.", min=5)
    ] = 25,
    threads: Annotated[int, typer.Option(help="CPU threads of each runtime.", min=1)] = 1,
    public_key: PublicKey = None,
    least_release: LeastRelease = None,
    trust_engines: TrustEngines = False,
    json: output.Json = False,
) -> None:
    """Time the mean sampler step on every runtime of the bundle, FP32 and INT8."""
    from ..workflows.bench import BenchSettings, bench_bundle

    settings = BenchSettings(batch, rounds, threads, public_key, trust_engines, least_release)
    found = bench_bundle(what, settings, output.terminal)
    _show(found)
    output.result("bench", found.to_json())


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
        f"The mean sampler step of a trajectory, batch {asked.batch}, {asked.threads} thread(s), "
        f"medians of {asked.rounds} interleaved rounds."
    )
