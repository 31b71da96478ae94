"""edgegen bench: how fast a bundle is on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import RuntimeMissing
from . import output, source
from .options import PublicKey, TrustEngines


def bench(
    what: Annotated[str, typer.Argument(help="Bundle folder.", metavar="BUNDLE")],
    batch: Annotated[int, typer.Option(help="Images a call.", min=1)] = 8,
    rounds: Annotated[
        int, typer.Option(help="Timed rounds, interleaved over all candidates.", min=5)
    ] = 25,
    threads: Annotated[int, typer.Option(help="CPU threads of each runtime.", min=1)] = 1,
    public_key: PublicKey = None,
    trust_engines: TrustEngines = False,
    json: output.Json = False,
) -> None:
    """Time the mean sampler step on every runtime of the bundle, FP32 and INT8; states: ok, or
    skipped with the reason.
    """
    from ..core.runtime import placement
    from ..evidence import bench as timing
    from ..export import runtime
    from .executor import label

    bundle = source.open_bundle(what, public_key)
    candidates, skipped = {}, {}
    for name in bundle.manifest.runtimes:
        target = runtime(name)
        why = target.cannot_run()
        vouched = (
            trust_engines or bundle.signed_by is not None or bool(bundle.built_here(target, "int8"))
        )
        if target.executable and not why and not vouched:
            why = (
                "its engines are executable code: run edgegen build, or add --trust-engines if "
                "you trust their maker"
            )
        if why:
            skipped[name] = why
            continue
        candidates[label(name)] = bundle.pipeline(
            target, "int8", threads, trust_engines=trust_engines
        )
        if not target.executable and target.dialect.int8_ops:
            candidates[f"{name} FP32"] = bundle.pipeline(target, "fp32", threads)
    if not candidates:
        raise RuntimeMissing(
            "E-BACKEND", "; ".join(f"{n}: {why}" for n, why in skipped.items()), path=what
        )
    with output.progress("timing", None):
        recorded = timing.record(next(iter(candidates.values())), range(batch))
        times = timing.latencies(candidates, recorded, threads, rounds)
    full = [t.cpu_ms for n, t in times.items() if n.endswith("FP32")]
    rows = [
        [
            n,
            "ok",
            f"{t.cpu_ms:.2f}",
            f"{t.cpu_p90_ms:.2f}",
            f"{t.wall_ms:.2f}",
            f"{t.wall_p90_ms:.2f}",
            f"{min(full) / t.cpu_ms:.2f} x" if full else "-",
        ]
        for n, t in sorted(times.items())
    ]
    rows += [[label(n), f"skipped: {why}", "", "", "", "", ""] for n, why in skipped.items()]
    output.table(
        ["runtime", "state", "CPU ms", "p90", "wall ms", "p90", "against fastest FP32"], rows
    )
    print(
        f"The mean sampler step of a trajectory, batch {batch}, {threads} thread(s), medians of "
        f"{rounds} interleaved rounds."
    )
    output.result(
        "bench",
        {
            "bundle": what,
            "latency": {n: t.to_json() for n, t in times.items()},
            "skipped": skipped,
            "placement": {n: placement(p.call) for n, p in candidates.items()},
        },
    )
