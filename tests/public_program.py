"""A program of somebody who knows edgegen only: everything that the README's commands do.

python public_program.py PHOTOS RUN    in an empty folder; RUN is a toy's
"""

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import edgegen

heard: list[str] = []


class Heard:
    """Counts what it is told."""

    def note(self, text: str) -> None:
        heard.append(text)

    def progress(
        self, label: str, total: int | None = None, unit: str = ""
    ) -> AbstractContextManager[Callable[[int], None]]:
        heard.append(label)
        return nullcontext(lambda more: None)


def program(photos: Path, run: Path) -> None:
    listen = Heard()
    seen = edgegen.check_photos(photos, edgegen.PhotosSettings(size=16), listen)
    assert seen.refusal is None and seen.to_json()
    size = edgegen.estimate_training("cas-dm", "tiny", edgegen.EstimateSettings(threads=1))
    assert size.to_json()["parameters"]

    settings = edgegen.TrainSettings(recipe="tiny", images=64, batch=16, threads=1)
    trained = edgegen.train("cas-dm", "runs/a", photos, settings, listen)
    assert trained.weights.is_file() and heard
    short = edgegen.FinetuneSettings(
        steps=4, batch=8, evaluations=1, held_out=0.25, threads=1, rank=2
    )
    edgegen.finetune("runs/a", "runs/site", photos, short, listen)
    edgegen.merge_adapter("runs/site", "runs/merged")
    assert edgegen.compare_runs(["runs/site"], "compared.png").picture.is_file()

    generator = edgegen.load_generator(run)
    assert generator.generate(seeds=range(3)).shape == (3, 16, 16, 3)
    grid = edgegen.GenerateSettings(count=4)
    edgegen.generate_images("runs/merged", "grid.png", grid, listen)
    assert edgegen.list_layers(generator).to_json()["layers"]
    explained = edgegen.ExplainSettings(baseline=8, regions="2x2", threads=1)
    edgegen.explain_generator(generator, "explain", explained, listen)

    stats = edgegen.calibrate_generator(
        generator, "stats", edgegen.CalibrateSettings(samples=32, threads=1), listen
    )
    chosen = edgegen.ExportSettings(
        runtimes=("onnxruntime",),
        fid_budget=1.0,
        min_psnr_db=0,
        max_ruined=0.02,
        max_moved=0.5,
        max_apart=0.2,
        max_images=500,
        calibration_samples=32,
        plan=stats.plan,
        threads=1,
    )
    result = edgegen.export_bundle(generator, "out/a", chosen, listen)
    assert result.verdict is not None and result.verdict.state == "within"
    json.dumps(result.to_json(), allow_nan=False)
    assert edgegen.read_plan("out/a").to_json()["rules"]

    images = edgegen.open_bundle("out/a").generate(seeds=range(4), runtime="onnxruntime")
    assert images.shape == (4, 16, 16, 3) and images.dtype.name == "uint8"
    edgegen.generate_images("out/a", "images", grid, listen)
    assert not edgegen.lint_model("out/a").errors
    assert edgegen.build_engines("out/a").to_json()["built"] == []
    files = edgegen.verify_bundle("out/a", edgegen.VerifySettings(extent="images", threads=1))
    assert files.to_json()["images"]
    timed = edgegen.bench_bundle("out/a", edgegen.BenchSettings(rounds=5), listen)
    assert timed.latency["onnxruntime INT8"].cpu_ms > 0
    quick = edgegen.DamageSettings(runtime="onnxruntime", seeds=1, quick=True, threads=1)
    edgegen.map_damage(generator, "out/a", "damage", quick, listen)
    assert [entry.name for entry in edgegen.zoo_models()]

    strict = edgegen.ExportSettings(
        fid_budget=1e-9, min_psnr_db=0, max_ruined=0.02, max_images=500, plan=stats.plan, threads=1
    )
    try:
        edgegen.export_bundle(generator, "out/strict", strict)
    except edgegen.GateFailed as error:
        assert error.result.verdict.state != "within" and error.exit_code == 3
    else:
        raise AssertionError("the gate did not fail")
    assert not Path("out/strict").exists()


if __name__ == "__main__":
    program(*map(Path, sys.argv[1:]))
