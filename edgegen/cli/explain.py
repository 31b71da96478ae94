"""edgegen explain: which part of a layer's features draws which region of an image, and where INT8
damages it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.seeds import DAMAGE_MAP
from ..errors import UsageError
from ..workflows import generators
from . import output
from .options import Overwrite, Threads, cores, need_torch

if TYPE_CHECKING:
    from ..core.graph import Generator


def explain(
    what: Annotated[str, typer.Argument(help="Zoo name or run folder.", metavar="SOURCE")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="Folder of the report; with --edit also a .png."),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of the image, 0 if not said; with --against, the first.", min=0),
    ] = None,
    label: Annotated[int | None, typer.Option(help="Class of the image; else by seed.")] = None,
    layer: Annotated[
        str, typer.Option(help="Where to cut: a name of --layers, a part of one, or mid.")
    ] = "mid",
    layers: Annotated[bool, typer.Option("--layers", help="List the layers and stop.")] = False,
    step: Annotated[
        int | None, typer.Option(help="Of the sampler, from 1; the middle one, if not said.", min=1)
    ] = None,
    regions: Annotated[
        str, typer.Option(help="A grid, rows x columns, or a mask PNG with one colour a part.")
    ] = "3x3",
    demands: Annotated[
        str, typer.Option(help="gated (seconds) or optimised (minutes, closest to the paper).")
    ] = "gated",
    baseline: Annotated[
        int, typer.Option(help="Seeds whose mean features are the baseline.", min=2)
    ] = 1000,
    others: Annotated[
        int, typer.Option(help="Further seeds to compare the strongest primitives with.", min=0)
    ] = 0,
    repeat: Annotated[
        bool,
        typer.Option(
            "--repeat", help="Optimised: again from another start; says how stable it is."
        ),
    ] = False,
    show: Annotated[int, typer.Option(help="Primitives to show.", min=1, max=100)] = 12,
    edit: Annotated[
        list[str] | None,
        typer.Option(
            help="S=2,5:0.0 sets the primitive of regions 2 and 5 to strength 0; "
            "S=2,5:seed11 takes that of seed 11."
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="A bundle of SOURCE: map what INT8 damaged.", metavar="BUNDLE"),
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option(help="With --against: whose INT8; the bundle's first, if not said."),
    ] = None,
    seeds: Annotated[int, typer.Option(help="With --against: how many.", min=1, max=1000)] = 16,
    quick: Annotated[
        bool, typer.Option("--quick", help="With --against: do not check by putting layers back.")
    ] = False,
    overwrite: Overwrite = False,
    threads: Threads = 0,
    json: output.Json = False,
) -> None:
    """Take an image's features apart into primitives, or map what INT8 damaged: by layer, timestep
    and region.
    """
    need_torch()
    import torch

    from ..core import files
    from ..explain.primitives import KINDS
    from ..workflows.damage_map import Compared, damage_map
    from ..workflows.primitives import MARK, Asked, report

    torch.set_num_threads(threads or cores())
    if demands not in KINDS:
        raise UsageError("E-USAGE", f"--demands must be {' or '.join(KINDS)}, got {demands!r}")
    if repeat and demands == "gated":
        raise UsageError(
            "E-USAGE",
            "--repeat is for --demands optimised: gated ones have no start and come out the same",
        )
    if against and (layers or edit or others or step or layer != "mid" or demands != "gated"):
        raise UsageError(
            "E-USAGE",
            "--against maps all layers and steps of what INT8 damaged: it takes no --layers, "
            "--layer, "
            "--step, --demands, --others and --edit",
        )
    if not against and (runtime or quick):
        raise UsageError("E-USAGE", "--runtime and --quick are for --against BUNDLE")
    made = generators.load_generator(what)
    if layers:
        _list(what, made.generator)
        return
    only_edited = out is not None and out.suffix.lower() == ".png"
    if out is None or (only_edited and not edit):
        raise UsageError("E-OUT", "-o names the folder to write, or a .png with --edit")
    if not only_edited:
        files.check_target(out, MARK, overwrite)
    elif not out.parent.is_dir():
        raise UsageError("E-OUT", "the folder to write into does not exist", path=out.parent)
    if against:
        first = DAMAGE_MAP.first if seed is None else seed
        damage_map(
            made,
            Compared(against, runtime, regions, range(first, first + seeds), label, quick),
            out,
            threads or cores(),
            overwrite,
        )
    else:
        asked = Asked(
            what,
            seed or 0,
            label,
            layer,
            step,
            regions,
            demands,
            baseline,
            others,
            repeat,
            show,
            edit or [],
        )
        report(made.generator, asked, out, overwrite)


def _list(what: str, made: Generator) -> None:
    from ..explain.split import layers as found

    rows: list[dict[str, Any]] = [
        {
            "layer": one.name,
            "numbers": one.cut.numbers,
            "maps": [list(shape) for shape in one.cut.maps.values()],
            "beside": list(one.cut.beside),
        }
        for one in found(made.graphs())
    ]
    output.table(
        ["layer", "numbers", "feature maps (channels x height x width)"],
        [
            [r["layer"], r["numbers"], " + ".join("x".join(map(str, m)) for m in r["maps"])]
            for r in rows
        ],
    )
    output.result("explain", {"source": what, "layers": rows, "steps": len(made.sampler.timesteps)})
