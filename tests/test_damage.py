"""What INT8 damaged: the part of each layer, what goes when it is put back, and the map that
`edgegen damage` writes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from edgegen.cli.main import run
from edgegen.core.plan import Plan, Range
from edgegen.core.runtime import Dialect, Runtime
from edgegen.errors import GateFailed, InputError
from edgegen.explain.agreement import Check, by_region, decibels, rank_correlation
from edgegen.explain.damage import Attribution
from edgegen.explain.gates import Gated
from edgegen.explain.regions import grid
from edgegen.export import onnx as onnx_files
from edgegen.export.ort import OnnxRuntime
from edgegen.workflows import damage_map
from edgegen.workflows.context import Context
from edgegen.workflows.damage_map import DamageMap, DamageSettings, map_damage
from edgegen.workflows.export.hosted import hosted
from edgegen.workflows.export.protect import KEPT, Protect, first_layers
from edgegen.workflows.export.quantized import Quantized
from edgegen.workflows.generators import LoadedGenerator, load_generator

MASKS = grid(2, 2, 16, 16).masks


@pytest.fixture(scope="module")
def source(tiny_run: Path) -> Any:
    return load_generator(str(tiny_run))


class Plain(OnnxRuntime):
    """Rounds what convolutions read and their weights, nothing else: a rounding is one layer's."""

    dialect = Dialect()


def quantized(source: Any, plan: Plan, target: Runtime | None = None) -> Quantized:
    return Quantized(source, tiny.models(), plan, target or OnnxRuntime(), 1)


def only(*paths: str) -> Plan:
    return Plan(tuple((path, "int8") for path in paths), tiny.plan().ranges)


def attributed(source: Any, plan: Plan) -> tuple[list[str], Attribution]:
    layers, found = quantized(source, plan).attributed(MASKS, range(4), None)
    return [one.path for one in layers], found


FEW = tuple(
    f"theta/trunk.{name}.conv"
    for name in ("down.0.0.second", "shrink.0", "up.0.0.first", "up.1.0.first")
)


@pytest.mark.slow
def test_one_layer_alone_accounts_for_the_whole_damage(source: Any) -> None:
    """In each region and each image, with what it does at each timestep adding up."""
    paths, found = attributed(source, only("phi/trunk.up.0.0.first.conv"))
    assert paths == ["phi/trunk.up.0.0.first.conv"]
    assert found.times == tuple(f"t {t}" for t in source.generator.sampler.timesteps)
    np.testing.assert_allclose(found.parts.sum((0, 1)), found.whole, rtol=0.1)


@pytest.mark.slow
def test_the_layer_that_is_cut_off_is_named_first_and_putting_it_back_removes_most(
    source: Any,
) -> None:
    plan, poisoned = only(*FEW), FEW[0]
    node = next(
        n for n in tiny.models()["theta"].graph.node if n.name == poisoned.removeprefix("theta/")
    )
    seen = plan.ranges["theta"][node.input[0]]
    ranges = {
        **plan.ranges,
        "theta": {**plan.ranges["theta"], node.input[0]: Range(seen.low / 8, seen.high / 8)},
    }
    made = quantized(source, Plan(plan.rules, ranges), Plain())
    layers, found = made.attributed(MASKS, range(4), None)
    parts = found.parts.sum(1)
    assert layers[int(parts.sum((1, 2)).argmax())].path == poisoned
    full = tiny.torch_images()(range(4))
    int8 = hosted({g: made.file(g, made.plan) for g in made.even}, source.generator, 1)
    really = by_region(int8(range(4)) - full, MASKS)
    np.testing.assert_allclose(found.whole, really, rtol=0.2)  # the images are those of the runtime
    assert found.whole.sum() == pytest.approx(really.sum(), rel=0.05)
    check = Check(parts, made.removed(layers, int8, full, MASKS, range(4), None))
    assert check.first_wins() == 1.0
    assert layers[int(check.removed.sum((1, 2)).argmax())].path == poisoned


@pytest.mark.slow
def test_a_layer_put_back_takes_its_own_roundings_with_it(source: Any) -> None:
    made = quantized(source, only(*FEW))
    graphs = source.generator.graphs()
    gated = {k: Gated(g, onnx_files.traced(g, k)[1], made.rounding[k]) for k, g in graphs.items()}
    layers = made.layers(gated)
    assert [one.path for one in layers] == list(FEW)
    for one in layers:
        gone = {gated[one.graph].places[k] for k in one.places}
        node = next(n for n in made.even[one.graph].graph.node if n.name == one.name)
        assert (node.output[0], "") in gone


def test_rank_correlation_is_scipys_with_ties_too() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    for size in (3, 8, 40):
        a, b = rng.integers(0, 6, (2, size)).astype(float)
        assert rank_correlation(a, b) == pytest.approx(
            float(spearmanr(a, b).statistic), nan_ok=True
        )
    assert (
        rank_correlation(np.ones(5), np.arange(5.0)) is None
        and rank_correlation(np.arange(2.0), np.arange(2.0)) is None
    )


def test_a_prediction_at_random_wins_as_often_as_chance_says() -> None:
    rng = np.random.default_rng(0)
    check = Check(rng.random((9, 4000, 2)), rng.random((9, 4000, 2)))
    said = check.to_json()["the same by chance"]
    assert check.first_wins() == pytest.approx(said, abs=0.03) and said == 4 / 9
    assert Check(check.removed, check.removed).to_json()["rank correlation"] == pytest.approx(1)


def test_regions_add_up_to_the_image() -> None:
    apart = np.random.default_rng(0).normal(size=(3, 2, 16, 16))
    square = by_region(apart, MASKS)
    assert square.shape == (3, 4) and square.sum() == pytest.approx(np.square(apart).sum())
    assert decibels(4.0, 4) == pytest.approx(6.0206, abs=1e-4) and decibels(0.0, 4) is None


def test_protected_are_the_layers_with_most_damage_a_multiplication() -> None:
    parts = {"a": 50.0, "b": 30.0, "c": 20.0, "d": 0.0}
    assert first_layers(parts, dict.fromkeys(parts, 1.0)) == ["a", "b"] and KEPT == 0.75
    assert first_layers(parts, {"a": 100.0, "b": 1.0, "c": 1.0, "d": 1.0}) == ["b", "c", "a"]
    assert first_layers({"a": 0.0}, {"a": 1.0}) == []


@pytest.fixture(scope="module")
def mapped(source: Any, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> DamageMap:
    settings = DamageSettings(runtime="onnxruntime", regions="2x2", seeds=4, threads=1)
    return map_damage(source, tiny_bundle, tmp_path_factory.mktemp("damage") / "out", settings)


@pytest.fixture
def report(mapped: DamageMap) -> Path:
    return mapped.out


def test_a_map_has_its_pictures_and_one_page_without_external_files(report: Path) -> None:
    page = (report / "index.html").read_text()
    assert not re.search(r"(src|href)=[\"'](?!data:image/png;base64,)|https?:|<script|url\(", page)
    found = json.loads((report / "report.json").read_text())
    drawn = {f"layer-{k + 1}.png" for k in range(min(6, len(found["layers"])))}
    assert {p.name for p in report.iterdir()} == {
        "index.html",
        "report.json",
        "damage.png",
        "seeds.png",
    } | drawn


def test_a_map_adds_up(report: Path) -> None:
    found = json.loads((report / "report.json").read_text())
    assert (
        found["about"]["executed_by"] == "onnxruntime" and found["about"]["first_seed"] == 6_000_000
    )
    shares = [one["share"] for one in found["layers"]]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(
        found["damage"]["explained"]
    )
    for one in found["layers"]:
        assert (
            sum(one["by_time"].values()) == pytest.approx(one["share"])
            and len(one["by_region"]) == 4
        )
    assert sum(one["share"] for one in found["regions"]) == pytest.approx(1)
    assert found["check"]["the same by chance"] <= 0.5


def test_the_verb_passes_its_flags_on_and_prints_what_it_is_told(
    mapped: DamageMap,
    tiny_run: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[Any] = []

    def map_again(source: LoadedGenerator, *arguments: Any) -> DamageMap:
        calls.append((source.name, *arguments[:3]))
        return mapped

    monkeypatch.setattr(damage_map, "map_damage", map_again)
    where = ["damage", str(tiny_run), str(tiny_bundle), "-o", str(tmp_path / "out")]
    assert run([*where, "--runtime", "openvino", "--seed", "3", "--seeds", "2", "--quick"]) == 0
    assert run([*where, "--label", "1", "--regions", "1x2", "--threads", "1", "--json"]) == 0
    first = DamageSettings(runtime="openvino", first_seed=3, seeds=2, quick=True)
    second = DamageSettings(label=1, regions="1x2", threads=1)
    assert calls == [
        ("run", str(tiny_bundle), tmp_path / "out", settings) for settings in (first, second)
    ]
    printed = capsys.readouterr().out
    table, document = printed[: printed.index("{")], json.loads(printed[printed.index("{") :])
    assert table.startswith("layer") and f"report: {tmp_path / 'out' / 'index.html'}" in table
    written = json.loads((mapped.out / "report.json").read_text())
    assert document == {
        **written,
        "ok": True,
        "verb": "damage",
        "out": str(mapped.out),
    }


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--runtime", "tensorrt"], "E-BUNDLE-RUNTIME.*no INT8 files for tensorrt"),
        (["--label", "3"], "E-LABEL.*this generator has 0 classes"),
    ],
)
def test_what_a_map_cannot_do(
    flags: list[str],
    sentence: str,
    tiny_run: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ["damage", str(tiny_run), str(tiny_bundle), "-o", str(tmp_path / "out")]
    assert run([*where, *flags]) == 2
    assert re.search(sentence, capsys.readouterr().err) and not list(tmp_path.iterdir())


def test_a_map_of_no_bundle_or_of_another_generators_is_refused(
    source: Any, tiny_bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        map_damage(source, tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(InputError, match="the bundle was not exported from cas-dm"):
        map_damage(load_generator("cas-dm"), tiny_bundle, tmp_path / "out")


@pytest.mark.export
def test_protected_layers_come_first_in_the_plan(source: Any) -> None:
    plan = only(*FEW)
    made, said = Protect("1,2", "2x2")(source, tiny.models(), plan, [OnnxRuntime()], Context())
    assert said["regions"] == "1,2" and said["of"] == "2x2" and 0 < said["multiplications"] < 1
    assert 0 < len(said["layers"]) < len(FEW) and set(said["layers"]) <= set(FEW)
    assert (
        made.rules == (*((path, "fp32") for path in said["layers"]), *plan.rules)
        and made.ranges == plan.ranges
    )


def test_export_hands_the_regions_to_the_build(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def exporting(request: Any) -> None:
        seen.append(request.settings.protect)
        raise GateFailed("E-GATE", "far enough")

    monkeypatch.setattr("edgegen.workflows.export.run._export", exporting)
    assert (
        tiny.export(
            tiny_run,
            tmp_path / "a",
            "--protect-regions",
            "1,4",
            "--regions",
            "2x2",
            runtimes="onnxruntime",
        )
        == 3
    )
    assert tiny.export(tiny_run, tmp_path / "b", runtimes="onnxruntime") == 3
    assert seen == [Protect("1,4", "2x2"), None]


@pytest.mark.export
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--protect-regions", "10"], "E-REGIONS.*different numbers from 1 to 9"),
        (["--protect-regions", "1", "--regions", "99x1"], "E-REGIONS.*does not fit"),
        (["--regions", "2x2"], "E-USAGE.*--regions has no meaning without --protect-regions"),
        (
            ["--protect-regions", "1", "--plan", "PLAN"],
            "E-USAGE.*--protect-regions changes the search for a plan",
        ),
    ],
)
def test_regions_that_cannot_be_protected(
    flags: list[str],
    sentence: str,
    tiny_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "plan.json").write_bytes(tiny.plan().to_bytes())
    given = [str(tmp_path / "plan.json") if flag == "PLAN" else flag for flag in flags]
    assert tiny.export(tiny_run, tmp_path / "out", *given, runtimes="onnxruntime") == 2
    assert re.search(sentence, capsys.readouterr().err) and not (tmp_path / "out").exists()
