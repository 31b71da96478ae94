"""edgegen verify: is this bundle what was exported, and does its evidence hold on this machine?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import GateFailed
from . import output
from .options import (
    AllowCpu,
    Budget,
    BundleFolder,
    LeastRelease,
    MaxApart,
    MaxMoved,
    MaxRuined,
    MinPsnr,
    PublicKey,
    Runtimes,
    SecondJudge,
    Threads,
    TrustEngines,
    Weights,
    apart_of,
    budget_of,
    moved_of,
    names_of,
    ruined_of,
)

if TYPE_CHECKING:
    from ..workflows.verify import VerifyResult


def verify(
    bundle: BundleFolder,
    files_only: Annotated[
        bool, typer.Option("--files-only", help="Check hashes and manifest, recompute nothing.")
    ] = False,
    images_only: Annotated[
        bool, typer.Option("--images-only", help="Check that the same images come out: no torch.")
    ] = False,
    runtime: Runtimes = None,
    threads: Threads = 0,
    weights: Weights = None,
    second_judge: SecondJudge = None,
    public_key: PublicKey = None,
    least_release: LeastRelease = None,
    trust_engines: TrustEngines = False,
    allow_cpu: AllowCpu = False,
    fid_budget: Budget = "2%",
    min_psnr: MinPsnr = 35.0,
    max_ruined: MaxRuined = "0.2%",
    max_moved: MaxMoved = "5%",
    max_apart: MaxApart = "0.5%",
    no_reference: Annotated[
        bool,
        typer.Option(
            "--no-reference",
            help="Do not count the distance to a reference; a bundle without one needs this said.",
        ),
    ] = False,
    bench: Annotated[
        bool,
        typer.Option(
            "--bench",
            help="Hold the speeds to the manifest's as well; a quarter more or less is the same.",
        ),
    ] = False,
    fresh_seeds: Annotated[
        bool,
        typer.Option(
            "--fresh-seeds",
            help="Judge images of seeds that the operating system draws, instead of the export's.",
        ),
    ] = False,
    reference: Annotated[
        Path | None,
        typer.Option(help="Judge against these photos, or a file of their statistics, as well."),
    ] = None,
    json: output.Json = False,
) -> None:
    """Check every file, generate the same seeds again, and hold every quality figure of the
    manifest to what is found here, and that to the terms given.
    """
    from ..workflows.verify import VerifyResult, VerifySettings, verify_bundle

    settings = VerifySettings(
        "files" if files_only else "images" if images_only else "evidence",
        names_of(runtime) if runtime else None,
        threads=threads,
        feature_weights=weights,
        second_judge=second_judge,
        public_key=public_key,
        trust_engines=trust_engines,
        allow_cpu=allow_cpu,
        least_release=least_release,
        fid_budget=budget_of(fid_budget),
        min_psnr_db=min_psnr,
        max_ruined=ruined_of(max_ruined),
        max_moved=moved_of(max_moved),
        max_apart=apart_of(max_apart),
        no_reference=no_reference,
        bench=bench,
        fresh_seeds=fresh_seeds,
        reference=reference,
    )
    try:
        result = verify_bundle(bundle, settings, output.terminal)
    except GateFailed as failed:
        if isinstance(failed.result, VerifyResult):
            _show(failed.result)
        raise
    _show(result)
    output.result("verify", result.to_json())


def _show(result: VerifyResult) -> None:
    from .proof_table import show

    print(f"{result.files} files verified")
    if result.signed_by:
        release = "" if result.release is None else f" as release {result.release}"
        print(f"signed by key {result.signed_by[:16]}...{release}")
    elif result.is_signed:
        print("Signature not checked: pass --public-key.")
    if result.images is not None:
        _show_images(result)
    if result.proof is not None:
        show(result.proof)
        for one in result.differences:
            print(f"NOT FOUND HERE: {one}")
        if result.is_older:
            print(
                "The evidence in the manifest is of an older edgegen, with fewer gates than were "
                "held here."
            )
        if not result.is_bench:
            print(
                "Speeds are those of this machine, and were not compared with the manifest's: add "
                "--bench."
            )


def _show_images(result: VerifyResult) -> None:
    """One row a set of images."""
    rows = [
        [
            alike.name,
            f"{alike.share:.3%}",
            _decibel(alike.psnr_db),
            _decibel(alike.least_db) if alike.least_db else "99.9% of pixels",
            "the same" if alike.same else "OTHER IMAGES",
        ]
        for alike in result.images or ()
    ]
    rows += [
        [f"{name} INT8", "", "", "", f"skipped: {why}"] for name, why in result.skipped.items()
    ]
    output.table(
        ["images", "within 1/255", "PSNR", "at least", "against those made at export"], rows
    )
    print(
        f"Seeds {result.seeds[0]} to {result.seeds[-1]}. INT8 must be nearer to its images of then "
        "than those are to FP32."
    )


def _decibel(value: float) -> str:
    return "equal" if value == float("inf") else f"{value:.1f} dB"
