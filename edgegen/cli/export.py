"""edgegen export: a trained generator to a proven INT8 bundle."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.seeds import EVIDENCE
from ..errors import Busy, GateFailed, RuntimeMissing, UsageError
from ..workflows import generators
from . import output
from .options import Budget, Out, Overwrite, Threads, Weights, need_torch

if TYPE_CHECKING:
    from ..core.bundle import Bundle
    from ..core.runtime import Runtime
    from ..workflows.export.build import Made, Order
    from ..workflows.export.prove import Proof


def export(
    what: Annotated[str, typer.Argument(help="Zoo name or run folder.", metavar="SOURCE")],
    out: Out,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantize weights and activations to 8 bits.")
    ] = False,
    runtime: Annotated[
        str, typer.Option(help="Comma-separated: onnxruntime, openvino, tensorrt-rtx, tensorrt.")
    ] = "onnxruntime",
    fid_budget: Budget = "2%",
    min_psnr: Annotated[
        float, typer.Option(help="dB to full precision that the images must reach as well.", min=0)
    ] = 35.0,
    plan: Annotated[Path | None, typer.Option(help="Take this plan.json; search none.")] = None,
    feeds: Annotated[
        Path | None,
        typer.Option(help="Files to calibrate on, as `calibrate --data`; else trajectories."),
    ] = None,
    calibration: Annotated[
        int, typer.Option(help="Seeds whose trajectories are calibrated on.", min=32)
    ] = 128,
    max_images: Annotated[
        int,
        typer.Option(
            help="Image pairs at most before the verdict is undecided; the search looks at half.",
            min=500,
        ),
    ] = 4000,
    protect_regions: Annotated[
        str | None,
        typer.Option(
            help="Such as 2,5: layers whose rounding damages these most stay in full precision."
        ),
    ] = None,
    regions: Annotated[
        str | None,
        typer.Option(help="Of --protect-regions: a grid, or a mask PNG; 3x3, if not said."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Of the sampler that ships, of a generator that has them.", min=1),
    ] = None,
    last_steps: Annotated[
        int | None,
        typer.Option(
            help="Of the sampler's last steps, how many a plan may leave to FP32, half of them at "
            "most; 0 keeps FP32 weights off the "
            "device.  [default: 1]",
            min=0,
            show_default=False,
        ),
    ] = None,
    threads: Threads = 0,
    weights: Weights = None,
    overwrite: Overwrite = False,
    json: output.Json = False,
) -> None:
    """Quantize, build for each runtime, prove the images are as good, and publish the bundle; exit
    3 if they are not.
    """
    if not int8:
        raise UsageError("E-USAGE", "export needs a precision", hint="add --int8")
    need_torch()
    from ..core.bundle import MANIFEST
    from ..core.files import check_target, disk_error, publish
    from ..evidence.compare import Terms
    from ..workflows.export.build import Order
    from ..workflows.export.protect import Protect
    from ..workflows.export.search import MOST_LAST
    from .options import budget_of, cores

    terms = Terms(budget_of(fid_budget), max_images, min_psnr)
    check_target(out, MANIFEST, overwrite)
    if regions is not None and protect_regions is None:
        raise UsageError(
            "E-USAGE",
            "--regions says what --protect-regions counts",
            hint="add --protect-regions, such as 2,5",
        )
    if plan and protect_regions is not None:
        raise UsageError(
            "E-USAGE",
            "--protect-regions is for the search of a plan, and --plan takes one as it is",
        )
    if plan and last_steps is not None:
        raise UsageError(
            "E-USAGE",
            "--last-steps is for the search of a plan, and --plan takes one as it is",
            hint='its own "last" says how many steps it leaves to FP32',
        )
    order = Order(
        _targets(runtime),
        terms,
        threads or cores(),
        weights,
        calibration,
        feeds,
        plan,
        None if protect_regions is None else Protect(protect_regions, regions or "3x3"),
        MOST_LAST if last_steps is None else last_steps,
    )
    from filelock import FileLock, Timeout

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(error, out) from error
    try:
        with (
            FileLock(out.with_name(out.name + ".lock"), timeout=0),
            publish(out, MANIFEST, overwrite) as folder,
        ):
            try:
                proof = _make(what, steps, order, folder)
            except GateFailed as error:
                raise _rejected(folder, out, error) from error
    except Timeout as error:
        raise Busy("E-LOCKED", "another export is writing this folder", path=out) from error
    output.result("export", {"out": str(out), **proof.to_json()})
    print(f"bundle: {out}  same seeds side by side: {out / 'evidence' / 'same-seeds.png'}")


def _targets(names: str) -> list[Runtime]:
    """The runtimes asked for; refused before any work when one cannot build here."""
    from ..export import STAND_IN, runtime

    found = [runtime(name) for name in dict.fromkeys(n.strip() for n in names.split(","))]
    for target in [*found, runtime(STAND_IN)]:
        if why := target.missing():
            raise RuntimeMissing("E-BACKEND", why)
    if any(target.name == "reference" for target in found):
        raise UsageError(
            "E-RUNTIME", "the reference evaluator judges the others; it is no runtime to export for"
        )
    return found


def _make(what: str, steps: int | None, order: Order, folder: Path) -> Proof:
    import torch

    from ..core.bundle import write_manifest
    from ..core.images import png
    from ..evidence import golden_images
    from ..evidence.picture import side_by_side
    from ..workflows.export import model_card
    from ..workflows.export.build import build, described
    from ..workflows.export.prove import judge_of
    from ..workflows.finetune.merge import proven
    from ..workflows.sampling_choices import Choices, chosen
    from .doctor import measured_on
    from .table import show

    torch.set_num_threads(order.threads)
    made = generators.trained(what)
    sampled = replace(made, generator=chosen(made, Choices(steps))[0])
    if not made.reference.is_file():
        raise UsageError(
            "E-FID-REF",
            "there are no reference statistics to prove the images against",
            path=made.reference,
            hint="runs of `edgegen train` write them at their end",
        )
    # before the long work, since without it nothing can be proven
    judge_of(made.reference, order.weights)
    if order.protect is not None:
        order.protect.numbers(made)
    adapter = proven(Path(what), made.generator)
    proof, bundle = _proven(build(sampled, order, folder), order)
    pictures = dict(proof.pictures)
    images = golden_images.Kept(
        EVIDENCE.first, {name or golden_images.FULL: made for name, made in pictures.items()}
    )
    (folder / golden_images.FILE).write_bytes(golden_images.to_bytes(images))
    (folder / "evidence" / "same-seeds.png").write_bytes(
        png(side_by_side(pictures.pop(""), pictures))
    )
    description = described(bundle)
    description["evidence"] |= {**adapter, **proof.to_json(), "machine": measured_on()}
    (folder / model_card.FILE).write_bytes(
        model_card.card(description, *images.sets[golden_images.FULL].shape[1:3])
    )
    write_manifest(folder, description)
    show(proof)
    if not proof.passed:
        raise GateFailed("E-GATE", "; ".join(str(j) for j in proof.judged if not j.passed))
    return proof


def _proven(made: Made, order: Order) -> tuple[Proof, Bundle]:
    """What the bundle is worth; a runtime whose plan does not keep its promise gets a safer one,
    judged on seeds of its own.
    """
    from ..evidence.compare import SHARES
    from ..workflows.export.build import rebuild
    from ..workflows.export.prove import prove

    def judged(targets: list[Runtime], number: int) -> Proof:
        trials = {t.name: order.terms.trial(number) for t in targets}
        # just built here
        return prove(
            made.bundle, trials, order.terms, order.threads, order.weights, trust_engines=True
        )

    proof = judged(order.runtimes, 0)
    for number in range(1, len(SHARES)):
        failed = {j.name: j for j in proof.judged if not j.passed}
        again = [t for t in order.runtimes if t.name in failed and made.plans[t.name].safer()]
        if not again:
            break
        for target in again:
            output.note(f"{failed[target.name]}; trying a plan with more in FP32")
        made = rebuild(made, again)
        proof = proof.again(judged(again, number))
    return proof, made.bundle


def _rejected(folder: Path, out: Path, error: GateFailed) -> GateFailed:
    """The error, after what was made and measured has been kept under rejected/, never under the
    final name.
    """
    from ..core.bundle import MANIFEST
    from ..core.files import publish

    if not (folder / MANIFEST).is_file():  # it failed before there was a whole to look at
        return error
    kept = out.parent / "rejected" / out.name
    with publish(kept, MANIFEST, overwrite=True) as other:
        shutil.copytree(folder, other, dirs_exist_ok=True)
    hint = error.hint or "nothing was written under the name asked for"
    return GateFailed(error.code, error.message, path=kept, hint=hint, details=error.details)
