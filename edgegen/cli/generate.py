"""edgegen generate: seeds to images, from a zoo name, a run or a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..workflows import generators
from ..workflows.sampling_choices import Choices, chosen
from . import output
from .options import AllowCpu, PublicKey, TrustEngines, need_torch

if TYPE_CHECKING:
    from ..core.bundle import Bundle
    from ..core.runtime import Pipeline


def generate(
    what: Annotated[str, typer.Argument(help="Zoo name, run folder or bundle.", metavar="SOURCE")],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="A .png for one grid, else a folder for one PNG a seed."),
    ],
    seed: Annotated[int, typer.Option(help="First seed; image k has seed + k.", min=0)] = 0,
    count: Annotated[int, typer.Option("-n", "--count", help="Number of images.", min=1)] = 64,
    label: Annotated[
        int | None, typer.Option(help="Class of all images; without it, seed modulo classes.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of the sampler, of a generator that has them.", min=1)
    ] = None,
    way: Annotated[
        str | None,
        typer.Option(help="Which of its networks draw, such as teacher or student of lcd."),
    ] = None,
    control: Annotated[
        Path | None,
        typer.Option(help="A picture the images must follow: the model's kind of hint."),
    ] = None,
    control_from: Annotated[
        Path | None, typer.Option(help="A photo to make that hint from.")
    ] = None,
    like: Annotated[
        Path | None, typer.Option(help="A photo whose colours the images should have.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="Of a bundle: which runtime; its first that works here.")
    ] = None,
    precision: Annotated[str, typer.Option(help="Of a bundle: int8 or fp32.")] = "int8",
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 1,
    public_key: PublicKey = None,
    trust_engines: TrustEngines = False,
    allow_cpu: AllowCpu = False,
    json: output.Json = False,
) -> None:
    """Make images from seeds: the same seed gives the same image on every runtime and machine."""
    from ..core import files, images

    if not out.parent.is_dir():
        raise UsageError("E-OUT", "the folder to write into does not exist", path=out.parent)
    if out.suffix.lower() != ".png":
        files.check_target(out, "", False)
    if seed + count > 2**63:
        raise UsageError(
            "E-SEED", f"seeds end at 2**63 - 1, and --seed {seed} with {count} images goes beyond"
        )
    choices = Choices(steps, way, control, control_from, like)
    if generators.is_bundle(what):
        if choices:
            raise UsageError(
                "E-USAGE",
                "--steps, --way, --control, --control-from and --like are decided when a bundle is "
                "made",
                path=what,
                hint="use the zoo name or the run it was exported from",
            )
        executed, pipeline = _bundled(
            generators.open_bundle(what, public_key),
            runtime,
            precision,
            threads,
            trust_engines,
            allow_cpu,
        )
    else:
        if runtime or precision != "int8" or trust_engines or public_key or allow_cpu:
            raise UsageError(
                "E-USAGE",
                "--runtime, --precision, --public-key, --trust-engines and --allow-cpu are for "
                "bundles",
            )
        need_torch()
        import torch

        torch.set_num_threads(threads)
        executed, pipeline = (
            "torch",
            generators.torch_pipeline(*chosen(generators.load_generator(what), choices)),
        )
    if label is not None and not 0 <= label < pipeline.latent.classes:
        raise UsageError(
            "E-LABEL",
            f"--label {label}: this generator has {pipeline.latent.classes} classes, numbered from "
            "0",
        )
    parts = []
    with output.progress("generating", count) as advance:
        for start in range(seed, seed + count, pipeline.batch):
            seeds = range(start, min(start + pipeline.batch, seed + count))
            parts.append(images.to_uint8(pipeline(seeds, label)))
            advance(len(seeds))
    _write(out, [image for part in parts for image in part], seed, pipeline.latent.classes)
    output.result("generate", {"images": count, "seed": seed, "runtime": executed, "out": str(out)})
    print(f"{count} images by {executed}: {out}")


def _bundled(
    bundle: Bundle,
    runtime: str | None,
    precision: str,
    threads: int,
    trust_engines: bool,
    allow_cpu: bool,
) -> tuple[str, Pipeline]:
    from ..export import runtime as find
    from ..workflows.executor import executor, insist, int8

    if precision not in ("int8", "fp32"):
        raise UsageError("E-USAGE", f"--precision must be int8 or fp32, got {precision!r}")
    names = (
        [runtime]
        if runtime
        else [n for n in bundle.manifest.runtimes if find(n).cannot_run() is None]
    )
    if not names:
        from ..errors import RuntimeMissing

        reasons = "; ".join(f"{n}: {find(n).cannot_run()}" for n in bundle.manifest.runtimes)
        raise RuntimeMissing(
            "E-BACKEND", f"none of the bundle's runtimes works here: {reasons}", path=bundle.root
        )
    if runtime and precision == "int8":
        bundle.vouched(
            runtime, trust_engines or allow_cpu or bool(bundle.built_here(find(runtime), "int8"))
        )
    insist(names[:1], allow_cpu, output.terminal)
    if precision == "fp32":
        host = executor(names[0])
        return f"{host} fp32", bundle.pipeline(
            find(host), "fp32", threads, trust_engines=trust_engines
        )
    made = int8(bundle, names[0], threads, trust_engines)
    host = executor(names[0])
    return f"{names[0]} int8" + (
        "" if host == names[0] else f", executed by {host} on the CPU"
    ), made


def _write(out: Path, made: list, seed: int, classes: int) -> None:  # type: ignore[type-arg]
    import numpy as np

    from ..core import files, images

    if out.suffix.lower() == ".png":
        columns = classes if classes and len(made) >= classes else None
        images.save_png(out, images.grid(np.stack(made), columns), scale=2)
        return
    with files.publish(out, "") as folder:
        for k, image in enumerate(made):
            (folder / f"{seed + k:08d}.png").write_bytes(images.png(image))
