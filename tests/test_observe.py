"""Calibration: streamed extremes are those of all samples, no sample is kept, and luck is
refused.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tiny
from onnx import helper

from edgegen.calibrate.choose import ends, plan
from edgegen.calibrate.observe import ENOUGH, ActivationStats, Observer, instrument
from edgegen.core.plan import Plan, Range
from edgegen.core.runtime import Pipeline
from edgegen.errors import InputError
from edgegen.export import qdq

T = (2, 1)


def net() -> Any:
    """A net that takes t, which changes nothing."""
    model = tiny.conv_net((3, 16), (16, 4))
    model.graph.input.append(helper.make_tensor_value_info("t", 1, ["batch"]))
    return model


def observer_of(model: Any) -> Observer:
    return Observer(model, qdq.candidates(model), T, 1)


def timed(observer: Observer, x: np.ndarray, t: float) -> np.ndarray:
    return observer(x=x, t=np.full(len(x), t, np.float32))


def test_extremes_are_those_of_all_samples() -> None:
    model, rng = net(), np.random.default_rng(0)
    tensors = qdq.candidates(model)
    batches = [rng.normal(0, 2, (n, 3, 8, 8)).astype(np.float32) for n in (1, 5, 2)]
    observer = observer_of(model)
    for batch in batches:
        timed(observer, batch, 1)
    whole = instrument(model, tensors)
    del whole.graph.output[:]
    inner = [t for t in tensors if t not in ("x", "t")]
    whole.graph.output.extend(helper.make_empty_tensor_value_info(t) for t in inner)
    session = onnxruntime.InferenceSession(
        whole.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    everything = np.concatenate(batches)
    times = np.ones(len(everything), np.float32)
    found_by_hand = session.run(None, {"x": everything, "t": times})
    values = {"x": everything, "t": times, **dict(zip(inner, found_by_hand, strict=True))}
    for name, found in observer.stats.ranges().items():
        wanted = (min(values[name].min(), 0), max(values[name].max(), 0))
        np.testing.assert_allclose(
            (found.low, found.high), wanted, rtol=1e-5, atol=1e-6, err_msg=name
        )
    assert observer.stats.coverage == {2: 0, 1: 8}


@pytest.mark.export
def test_observing_does_not_change_the_output() -> None:
    for name, observer in tiny.observers().items():
        inputs = tiny.calls()[name][1]
        coverage = dict(observer.stats.coverage)
        np.testing.assert_allclose(
            observer(**inputs), tiny.torch_images().call[name](**inputs), atol=1e-5, rtol=1e-5
        )
        observer.stats.coverage.update(coverage)  # shared by other tests


def size(stats: ActivationStats) -> int:
    return sum(
        sys.getsizeof(v) + (v.nbytes if isinstance(v, np.ndarray) else 0)
        for v in vars(stats).values()
    )


def test_statistics_grow_with_tensors_and_never_with_samples() -> None:
    few, many = (ActivationStats(("a", "b"), T) for _ in range(2))
    rng = np.random.default_rng(0)
    for stats, rounds in ((few, 2), (many, 500)):
        for _ in range(rounds):
            stats.add(
                (rng.normal(size=2) - 3).tolist(),
                (rng.normal(size=2) + 3).tolist(),
                np.ones(8, np.float32),
            )
    assert size(few) == size(many) and vars(few).keys() == vars(many).keys()
    assert size(ActivationStats(tuple("abcdefgh"), T)) > size(few)


@pytest.mark.export
def test_the_same_trajectories_give_the_same_plan_bytes_whatever_the_batch() -> None:
    generator = tiny.generator()
    made = {
        k: Observer(m, qdq.candidates(m), generator.sampler.timesteps, 1)
        for k, m in tiny.models().items()
    }
    Pipeline(generator.latent, generator.sampler, made, batch=32)(range(32))
    again = plan(tiny.models(), {k: o.stats for k, o in made.items()})
    assert again.to_bytes() == tiny.plan().to_bytes()


@pytest.mark.export
def test_every_timestep_of_the_sampler_is_covered() -> None:
    for observer in tiny.observers().values():
        assert observer.stats.coverage == dict.fromkeys(tiny.generator().sampler.timesteps, 32)
        observer.stats.check()


@pytest.mark.parametrize("samples", [0, ENOUGH - 1])
def test_too_few_samples_are_refused(samples: int) -> None:
    stats = ActivationStats(("a",), T)
    stats.add([-1], [1], np.full(ENOUGH, 2, np.float32))
    stats.add([-1], [1], np.full(samples, 1, np.float32))
    with pytest.raises(
        InputError,
        match=rf"E-CALIB\] timestep 1 was calibrated on {samples} samples, 8 are needed",
    ):
        stats.check()


def test_a_generator_that_gives_nothing_is_refused() -> None:
    stats = ActivationStats(("a", "b"), (1,))
    stats.add([0, 0], [0, 0], np.ones(ENOUGH, np.float32))
    with pytest.raises(InputError, match="every tensor stayed 0 while calibrating"):
        stats.check()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_activation_that_is_not_finite_is_named(value: float) -> None:
    """ONNX Runtime's own minimum and maximum pass over a NaN."""
    x = np.zeros((2, 3, 8, 8), np.float32)
    x[1, 1, 3, 3] = value
    with pytest.raises(
        InputError, match=r"E-CALIB\] x holds NaN or infinite values while calibrating"
    ):
        timed(observer_of(net()), x, 1)


@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_nan_in_any_place_is_found(where: int) -> None:
    stats = ActivationStats(("a", "b", "c"), T)
    low = [-1.0, -1.0, -1.0]
    low[where] = float("nan")
    with pytest.raises(InputError, match=rf"E-CALIB\] {'abc'[where]} holds NaN"):
        stats.add(low, [1, 1, 1], np.ones(1, np.float32))


@pytest.mark.export
def test_the_ends_of_a_graph_are_its_first_and_last_convolutions() -> None:
    assert ends(tiny.conv_net((3, 8), (8, 8), (8, 8), (8, 3))) == ["c0", "c3"]
    assert ends(tiny.conv_net((3, 3))) == ["c0"]
    assert ends(tiny.models()["theta"]) == ["trunk.stem.conv", "trunk.head"]


def test_parallel_branches_have_each_a_first_and_a_last() -> None:
    def conv(name: str, read: str, made: str) -> Any:
        return helper.make_node("Conv", [read, "w"], [made], name, pads=[1, 1, 1, 1])

    weight = helper.make_tensor("w", 1, [3, 3, 3, 3], np.ones(81))
    fork, join = (
        helper.make_node("Add", pair, [made], f"add{made}")
        for pair, made in ((["1", "2"], "3"), (["5", "6"], "y"))
    )
    nodes = [
        conv("a", "x", "1"),
        conv("b", "x", "2"),
        fork,
        conv("middle", "3", "4"),
        conv("c", "4", "5"),
        conv("d", "4", "6"),
    ]
    assert ends(tiny.graph_of([*nodes, join], [weight], 3, 3)) == ["a", "b", "c", "d"]


@pytest.mark.export
def test_a_plan_keeps_the_ends_and_quantizes_the_rest() -> None:
    made = tiny.plan()
    assert (
        made.precision("theta", "trunk.stem.conv") == made.precision("phi", "trunk.head") == "fp32"
    )
    assert made.precision("theta", "trunk.middle.first.conv") == "int8"


def test_a_plan_file_is_read_back_and_what_is_wrong_is_said(tmp_path: Any) -> None:
    path = tmp_path / "plan.json"
    made = Plan((("g/a*", "fp32"), ("*", "int8")), {"g": {"x": Range(-1, 2)}})
    path.write_bytes(made.to_bytes())
    assert Plan.read(path) == made
    assert Plan((), {}).precision("g", "a") == "fp32"
    for old, new, said in (
        ("int8", "int4", "unknown precision 'int4'"),
        ('"schema_version": 1', '"schema_version": 2', "schema 2"),
        ("-1", "1", "hold 0"),
        ('"ranges"', '"range"', "ranges"),
        ("2\n", "1e60\n", "finite in float32"),
    ):
        text = made.to_bytes().decode()
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(InputError, match=rf"E-PLAN\] not a usable plan: .*{said}"):
            Plan.read(path)


def test_timesteps_with_fractions_are_counted_each_by_itself() -> None:
    """Sigmas of a flow lie between 0 and 1, and a solver may visit one timestep twice."""
    stats = ActivationStats(("a",), (0.9, 0.30000001, 0.3, 0.1, 0.1))
    for _ in range(ENOUGH):
        stats.add([-1], [1], np.array([0.9, 0.3, 0.1, 0.1], np.float32))
    assert list(stats.coverage.values()) == [ENOUGH, ENOUGH, 2 * ENOUGH]
    stats.check()
    with pytest.raises(KeyError):
        stats.add([-1], [1], np.array([0.2], np.float32))
