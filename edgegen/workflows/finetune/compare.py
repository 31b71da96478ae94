"""edgegen finetune --compare: fine-tuned runs in one table and one picture, from what each run
keeps of itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...cli import output
from ...core.files import read_json
from ...core.verdict import Interval
from ...errors import InputError, UsageError
from .periodic_eval import FILE, PICTURES, pictures, said, told

PICTURE = Path("compared.png")


def side_by_side(runs: list[Path], out: Path | None) -> None:
    """Print the table; draw base, runs and photos into `out`. UsageError for fewer than one run or
    other data.
    """
    from ...core.images import save_png
    from ...evidence.timeline import comparison

    found = [_run(run) for run in runs]
    if len({entry["about"]["data"]["sha256"] for entry in found}) > 1:
        raise UsageError(
            "E-USAGE",
            "the runs saw different photos or hold out others: their distances do not compare",
        )
    rows = []
    for run, entry in zip(runs, found, strict=True):
        about, last = entry["about"], entry["last"]
        report = last["memory"]
        rows.append(
            [
                run.name,
                about["family"],
                about["finetune"]["rank"] or "all",
                about["recipe"]["images"],
                *(said(Interval(**last["adapted"][name])) for name in ("KID", "FD")),
                told(last["ratio"]),
                report["near_copies"],
                f"{report['features']['ratio']:.2f}",
                _size(run),
            ]
        )
    output.table(
        [
            "run",
            "family",
            "rank",
            "images",
            "KID",
            "FD",
            "FD / base",
            "near-copies",
            "novelty",
            "adapter",
        ],
        rows,
    )
    print(found[0]["last"]["what"])
    path = out or PICTURE
    blocks = {"base": found[0]["pictures"]["base"]}
    blocks |= {
        run.name: entry["pictures"]["adapted"] for run, entry in zip(runs, found, strict=True)
    }
    save_png(path, comparison({**blocks, "photos": found[0]["pictures"]["photos"]}))
    output.result(
        "finetune",
        {
            "compared": [
                {"run": str(run), **entry["last"]} for run, entry in zip(runs, found, strict=True)
            ],
            "picture": str(path),
        },
    )
    print(f"picture: {path}")


def _run(run: Path) -> dict[str, Any]:
    if not (run / FILE).is_file():
        raise UsageError("E-SOURCE", "this is no run of `edgegen finetune`", path=run)
    about, looks = read_json(run / "run.json"), read_json(run / FILE)
    if "recover" in looks:
        raise UsageError(
            "E-SOURCE",
            "this run recovered INT8 images and saw no photos: it does not compare",
            path=run,
        )
    if not looks.get("last") or not (run / PICTURES).is_file():
        raise InputError(
            "E-RUN-OPEN", "this run has not ended yet", path=run, hint="finish it with --resume"
        )
    return {"about": about, "last": looks["last"], "pictures": pictures(run)}


def _size(run: Path) -> str:
    from ...training.adapt import files, site

    path = run / site.ADAPTER / files.TENSORS
    return f"{path.stat().st_size / 1e3:.0f} kB" if path.is_file() else "-"
