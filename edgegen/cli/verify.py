"""edgegen verify: check that a bundle is what was exported and that its evidence holds on this
machine.
"""

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
        bool,
        typer.Option(
            "--files-only", help="Check only the hashes and the manifest; compute no images."
        ),
    ] = False,
    images_only: Annotated[
        bool,
        typer.Option(
            "--images-only",
            help="Check only that the same images come out; this does not need torch.",
        ),
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
            help="Do not judge by the distance to a reference. Required for a bundle without a "
            "reference.",
        ),
    ] = False,
    bench: Annotated[
        bool,
        typer.Option(
            "--bench",
            help="Also compare the speeds with those in the manifest; a difference of up to a "
            "quarter is accepted.",
        ),
    ] = False,
    fresh_seeds: Annotated[
        bool,
        typer.Option(
            "--fresh-seeds",
            help="Judge images from new random seeds of the operating system instead of the "
            "export's seeds.",
        ),
    ] = False,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="Also judge against these photos, or against a file with their statistics."
        ),
    ] = None,
    json: output.Json = False,
) -> None:
    """Check every file, generate images from the same seeds again, compare every quality figure in
    the manifest with what is measured here, and check the measured figures against the limits
    given.
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
                "The evidence in the manifest was made by an older edgegen with fewer gates than "
                "were checked here."
            )
        if not result.is_bench:
            print(
                "Speeds were measured on this machine and were not compared with those in the "
                "manifest; to compare them, add --bench."
            )


def _show_images(result: VerifyResult) -> None:
    """Print one row for each set of images."""
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
        f"Seeds {result.seeds[0]} to {result.seeds[-1]}. The INT8 images must be nearer to the "
        "INT8 images of the export than those are to FP32."
    )


def _decibel(value: float) -> str:
    return "equal" if value == float("inf") else f"{value:.1f} dB"
