"""Work over workers: the order, the bytes and the first error are those of one worker, whatever the
batch size.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from edgegen.core.answer_cache import Notes
from edgegen.core.images import to_uint8
from edgegen.core.runtime import Pipeline
from edgegen.core.side_by_side import AHEAD, over_workers, runs
from edgegen.core.spec import Array
from edgegen.errors import GateFailed
from edgegen.evidence import reference
from edgegen.evidence.compare import Comparison, compare
from edgegen.evidence.features import FeatureNetwork, feature_network
from edgegen.evidence.full_side import CHUNK, FullSide
from edgegen.evidence.looks import LookSchedule
from edgegen.evidence.one_thread import one_thread
from edgegen.export import qdq, runtime
from edgegen.workflows.export.hosted import hosted

HOSTS = ("onnxruntime", "openvino")


def slow_first(part: int) -> int:
    """The earlier a part, the longer it takes."""
    time.sleep(0.02 / (1 + part))
    return part * part


@pytest.mark.parametrize("workers", [1, 2, 5, 50])
def test_results_come_in_the_order_of_their_parts(workers: int) -> None:
    assert list(over_workers(slow_first, range(13), workers)) == [k * k for k in range(13)]
    assert list(over_workers(slow_first, [], workers)) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_part_that_fails_is_the_error_and_few_begin_behind_it(workers: int) -> None:
    begun: list[int] = []

    def work(part: int) -> int:
        begun.append(part)
        if part in (2, 3):
            time.sleep(0.05 if part == 2 else 0)  # the later one fails first
            raise ValueError(f"part {part}")
        return part

    found = over_workers(work, range(100), workers)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="part 2"):
        next(found)
    assert max(begun) < 3 + AHEAD * workers


def test_parts_run_at_once_but_work_inside_them_does_not() -> None:
    meet = threading.Barrier(2, timeout=20)

    def inner(part: int) -> int:
        return threading.get_ident()

    def work(part: int) -> tuple[int, set[int]]:
        meet.wait()  # passes only when two are here
        return threading.get_ident(), set(over_workers(inner, range(4), 4))

    for own, inside in over_workers(work, range(2), 2):
        assert inside == {own}


def test_work_inside_a_worker_is_given_up_when_nobody_waits_for_it() -> None:
    """Somebody who interrupts a verdict waits for a batch, not for every image that was begun."""
    made: list[int] = []
    started = threading.Event()

    def work(part: int) -> list[int]:
        if part == 0:
            started.wait(10)
            raise KeyboardInterrupt
        return list(over_workers(inner, range(1000), 2))

    def inner(part: int) -> int:
        made.append(part)
        started.set()
        time.sleep(0.01)
        return part

    with pytest.raises(KeyboardInterrupt):
        list(over_workers(work, [0, 1], 2))
    assert 0 < len(made) < 500


def test_runs_cover_all_and_only_the_last_is_shorter() -> None:
    assert runs(3, 14, 5) == [range(3, 8), range(8, 13), range(13, 14)] and runs(4, 4, 5) == []


@cache
def pipeline(host: str) -> Pipeline:
    """The tiny generator in that runtime's INT8."""
    files = {
        k: qdq.quantize(m, k, tiny.plan(), runtime(host).dialect) for k, m in tiny.models().items()
    }
    return hosted(files, tiny.generator(), 1, runtime(host))


@pytest.mark.export
@pytest.mark.parametrize("batch", [1, 4, 7, 64])
@pytest.mark.parametrize("host", HOSTS)
def test_images_are_the_same_to_the_byte_for_any_number_of_workers(host: str, batch: int) -> None:
    seeds = range(100, 123)
    one = replace(pipeline(host), batch=batch, workers=1)(seeds)
    for workers in (2, 5):
        many = replace(pipeline(host), batch=batch, workers=workers)(seeds)
        assert many.tobytes() == one.tobytes()
    assert one.shape == (23, 3, 16, 16) and not np.array_equal(one[0], one[1])


@pytest.mark.export
@pytest.mark.parametrize("host", [*HOSTS, "reference"])
def test_a_session_takes_calls_from_several_threads(host: str, tmp_path: Path) -> None:
    files = {"theta": tiny.models()["theta"]}
    session = hosted(files, tiny.generator(), 1, runtime(host)).call["theta"]
    calls = [
        {k: np.roll(v, turn, axis=0) for k, v in inputs.items()}
        for inputs in tiny.calls()["theta"]
        for turn in range(4)
    ]
    wanted = [session(**inputs) for inputs in calls]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            found = list(pool.map(lambda inputs: session(**inputs), calls))
            assert all(a.tobytes() == b.tobytes() for a, b in zip(found, wanted, strict=True))


@cache
def network() -> FeatureNetwork:
    return feature_network("efficientnet-lite0", size=32)


@pytest.fixture(scope="module")
def judge() -> reference.Reference:
    images = to_uint8(pipeline("onnxruntime")(range(5000, 5064)))
    blurred = (images // 2 + 60).astype(np.uint8)
    return reference.build(network()(blurred), network(), "toy", k=4)


def judged(
    judge: reference.Reference, workers: int, host: str, count: int
) -> tuple[Comparison, FullSide]:
    full = hosted(tiny.models(), tiny.generator(), workers)
    side = FullSide(full, network(), judge, workers=workers)
    side.pixels(0, 10)  # as prove asks for before: its runs begin where others do
    return compare(side, pipeline(host), 0.5, LookSchedule(70, count)), side


@pytest.mark.export
@pytest.mark.parametrize("host", HOSTS)
def test_a_verdict_is_the_same_to_the_bit_for_any_number_of_workers(
    host: str, judge: reference.Reference
) -> None:
    one, before = judged(judge, 1, host, 200)
    for workers in (2, 5):
        many, after = judged(judge, workers, host, 200)
        assert many == one and many.to_json() == one.to_json()
        assert after.projected(one.images).tobytes() == before.projected(one.images).tobytes()
        assert after.pixels(0, one.images).tobytes() == before.pixels(0, one.images).tobytes()


def test_features_do_not_depend_on_the_threads_that_torch_has() -> None:
    images = np.random.default_rng(0).integers(0, 256, (37, 16, 16, 3)).astype(np.uint8)
    one = network()(images)
    for threads in (2, 4):
        torch.set_num_threads(threads)
        assert network()(images).tobytes() == one.tobytes()
        assert torch.get_num_threads() == threads
    assert network()(images[:0]).shape == (0, 1280)


def test_torch_gets_its_threads_back_from_blocks_that_overlap() -> None:
    torch.set_num_threads(3)
    inside, leave = threading.Event(), threading.Event()

    def block() -> None:
        with one_thread():
            inside.set()
            assert leave.wait(20)

    other = threading.Thread(target=block)
    other.start()
    assert inside.wait(20)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 1  # the other block still runs
    leave.set()
    other.join()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 3


def test_torch_gets_its_threads_back_after_an_error() -> None:
    torch.set_num_threads(3)
    with pytest.raises(ValueError, match="inside"), one_thread():
        raise ValueError("inside")
    assert torch.get_num_threads() == 3


@pytest.mark.export
@pytest.mark.parametrize("workers", [1, 3])
def test_the_first_image_that_is_not_finite_is_named_for_any_number_of_workers(
    workers: int, judge: reference.Reference
) -> None:
    def broken(seeds: Sequence[int]) -> Array:
        images = pipeline("onnxruntime")(seeds)
        if seeds[0] >= 1_000_000 + CHUNK:
            images[0] = np.nan
        return images

    side = FullSide(pipeline("onnxruntime"), network(), judge, workers=workers)
    with pytest.raises(GateFailed, match="seeds 1000064 to 1000127 hold NaN"):
        compare(side, broken, 0.5, LookSchedule.once(256))


def test_notes_take_answers_from_several_threads(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes.jsonl")
    questions = [f"question {k}" for k in range(60)]
    found = list(over_workers(lambda q: notes.recall(q, lambda: {"of": q}), questions, workers=5))
    assert found == [{"of": q} for q in questions]
    again = Notes(tmp_path / "notes.jsonl")
    assert all(again.knows(q) for q in questions) and not again.knows("another")
    assert [again.recall(q, lambda: None) for q in questions] == found
