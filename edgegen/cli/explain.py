"""edgegen explain: which part of a layer's features draws which region of an image."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from . import output, source
from .options import Overwrite, Threads, cores, need_torch

if TYPE_CHECKING:
    from ..core.graph import Generator
    from ..explain.primitives import Primitives, Settings
    from ..explain.split import Split

MARK = "report.json"


def explain(
    what: Annotated[str, typer.Argument(help="Zoo name or run folder.", metavar="SOURCE")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Folder of the report; with --edit also a .png.")] = None,
    seed: Annotated[int, typer.Option(help="Of the image.", min=0)] = 0,
    label: Annotated[int | None, typer.Option(help="Class of the image; else by seed.")] = None,
    layer: Annotated[str, typer.Option(help="Where to cut: a name of --layers, a part of one, or mid.")] = "mid",
    layers: Annotated[bool, typer.Option("--layers", help="List the layers and stop.")] = False,
    step: Annotated[int | None, typer.Option(help="Of the sampler, from 1; the middle one, if not said.", min=1)] = None,
    regions: Annotated[str, typer.Option(help="A grid, rows x columns, or a mask PNG with one colour a part.")] = "3x3",
    demands: Annotated[str, typer.Option(help="gated (seconds) or optimised (minutes, closest to the paper).")] = "gated",
    baseline: Annotated[int, typer.Option(help="Seeds whose mean features are the baseline.", min=2)] = 1000,
    others: Annotated[int, typer.Option(help="Further seeds to compare the strongest primitives with.", min=0)] = 0,
    repeat: Annotated[bool, typer.Option("--repeat", help="Optimised: again from another start; says how stable it is.")] = False,
    show: Annotated[int, typer.Option(help="Primitives to show.", min=1, max=100)] = 12,
    edit: Annotated[list[str] | None, typer.Option(help="S=2,5:0.0 sets the primitive of regions 2 and 5 to strength 0.")] = None,
    overwrite: Overwrite = False,
    threads: Threads = 0,
    json: output.Json = False,
) -> None:
    """Take an image's features apart into primitives, each drawing its own set of regions."""
    need_torch()
    import torch

    from ..explain.primitives import KINDS

    torch.set_num_threads(threads or cores())
    if demands not in KINDS:
        raise UsageError("E-USAGE", f"--demands must be {' or '.join(KINDS)}, got {demands!r}")
    if repeat and demands == "gated":
        raise UsageError("E-USAGE", "--repeat is for --demands optimised: gated ones have no start and come out the same")
    made = source.trained(what).generator
    if layers:
        _list(what, made)
        return
    only_edited = out is not None and out.suffix.lower() == ".png"
    if out is None or (only_edited and not edit):
        raise UsageError("E-OUT", "-o names the folder to write, or a .png with --edit")
    from ..core import files

    if not only_edited:
        files.check_target(out, MARK, overwrite)
    elif not out.parent.is_dir():
        raise UsageError("E-OUT", "the folder to write into does not exist", path=out.parent)
    _explain(what, made, out, seed, label, layer, step, regions, demands, baseline, others, repeat, show, edit or [], overwrite)


def _list(what: str, made: Generator) -> None:
    from ..explain.split import layers as found

    rows: list[dict[str, Any]] = [
        {"layer": one.name, "numbers": one.cut.numbers, "maps": [list(shape) for shape in one.cut.maps.values()],
         "beside": list(one.cut.beside)} for one in found(made.graphs())
    ]
    output.table(["layer", "numbers", "feature maps (channels x height x width)"],
                 [[r["layer"], r["numbers"], " + ".join("x".join(map(str, m)) for m in r["maps"])] for r in rows])
    output.result("explain", {"source": what, "layers": rows, "steps": len(made.sampler.timesteps)})


def _explain(what: str, made: Generator, out: Path, seed: int, label: int | None, layer: str, step: int | None, regions: str,
             demands: str, baseline: int, others: int, repeat: bool, show: int, edit: list[str], overwrite: bool) -> None:
    import numpy as np

    from ..core import files, images
    from ..explain import primitives, report
    from ..explain.regions import LATTICE
    from ..explain.regions import regions as regions_of
    from ..explain.split import Way
    from ..explain.split import layer as layer_of

    if label is not None and not 0 <= label < made.latent.classes:
        raise UsageError("E-LABEL", f"--label {label}: this generator has {made.latent.classes} classes, numbered from 0")
    parts = regions_of(regions, *made.image_shape[1:])
    edits = [edit_of(text, parts.count) for text in edit]
    steps = len(made.sampler.timesteps)
    step = (steps + 1) // 2 if step is None else step
    if step > steps:
        raise UsageError("E-USAGE", f"--step {step}: this sampler has {steps}")
    place = layer_of(made.graphs(), layer)
    way = Way(made, place, step)
    with output.progress("baseline"):
        mean = way.baseline(baseline)
    split, settings = way.split(seed, label, mean), primitives.Settings(parts, demands)
    found = _decomposed(split, settings)
    edited = _edited(split, found, edits) if edits else None
    if out.suffix.lower() == ".png" and edited is not None:
        images.save_png(out, report.before_after(split.image.numpy(), edited))
        output.result("explain", {"out": str(out)})
        print(f"before, after, difference: {out}")
        return
    rng = np.random.default_rng(0)
    measured: dict[str, dict[str, Any]] = {
        "Sparsity": primitives.sparsity(found), "Additivity (error as a share)": primitives.additivity(found, parts.count, rng),
        "PSNR on demanded regions (dB)": primitives.faithful(split, found, parts, rng),
    }
    for k in range(others):
        theirs = _decomposed(way.split(seed + 1 + k, label, mean), settings)
        measured[f"Transfer: strongest sets found again in seed {seed + 1 + k}"] = primitives.shared(found, theirs, parts.count)
    if repeat:
        from dataclasses import replace

        again = _decomposed(split, replace(settings, solver=replace(settings.solver, start=0.01, seed=2)))
        measured["Stability: the same seed from another start"] = primitives.shared(found, again, parts.count)
    title = f"{what}, seed {seed}: {place.name}, step {step} of {steps}, {parts.count} regions, {demands} demands"
    shown = primitives.draw(split, found, parts, show)
    whole = report.Explained(title, parts, split.image.numpy(), primitives.images(split, split.baseline[None])[0], found, shown,
                             measured, edited)
    about = {"source": what, "seed": seed, "label": label, "layer": place.name, "step": step, "regions": parts.count,
             "baseline": baseline, "demands": demands, "lattice": parts.count <= LATTICE}
    document: dict[str, Any] = {"schema_version": 1, "about": about, **report.to_json(whole)}
    drawn = report.drawings(whole)
    with files.publish(out, MARK, overwrite) as folder:
        for name, pixels in drawn.items():
            (folder / name).write_bytes(images.png(pixels))
        (folder / "index.html").write_bytes(report.to_html(whole, drawn))
        (folder / MARK).write_bytes(files.to_json(document))
    rows = [[one["regions"], f"{one['strength']:.3g}", _share(one["inside"]), _share(one["area"])] for one in document["shown"]]
    output.table(["regions", "strength", "change inside", "area"], rows)
    output.result("explain", {"out": str(out), **{name: document[name] for name in document if name != "schema_version"}})
    print(f"report: {out / 'index.html'}")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def _decomposed(split: Split, settings: Settings) -> Primitives:
    from ..explain.primitives import decompose

    bars: dict[str, Any] = {}
    with ExitStack() as stack:
        def advance(label: str, more: int, total: int) -> None:
            if label not in bars:
                bars[label] = stack.enter_context(output.progress(label, total))
            bars[label](more)

        return decompose(split, settings, advance)


def _edited(split: Split, found: Primitives, edits: list[tuple[int, float]]) -> Any:
    from ..explain import primitives
    from ..explain.regions import name_of

    try:
        return primitives.edited(split, found, edits)
    except ValueError as error:
        known = "; ".join(name_of(s) for s in found.order[:8])
        raise UsageError("E-EDIT", f"--edit: {error}", hint=f"the strongest are those of regions {known}") from error


def edit_of(text: str, count: int) -> tuple[int, float]:
    """"S=2,5:0.0" -> the set and its strength. UsageError for anything else."""
    import math

    from ..explain.regions import set_of

    name, _, strength = text.partition(":")
    try:
        value = float(strength)
    except ValueError:
        value = math.nan
    if not name.startswith("S=") or not abs(value) <= 100:
        raise UsageError("E-EDIT", f"--edit is S=REGIONS:STRENGTH such as S=2,5:0.0 with a strength in [-100, 100], got {text!r}")
    return set_of(name.removeprefix("S="), count), value
