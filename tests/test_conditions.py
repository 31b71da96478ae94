"""What a generator is told beside its noise: labels, prompts and constants, as functions of the
seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import prompted
import pytest

from edgegen.core.conditions import (
    CONDITIONS,
    Condition,
    Constants,
    Labels,
    Prompts,
    conditions_from_json,
    labels,
)
from edgegen.core.conditions.prompts import BYTES, CHARACTERS, MOST
from edgegen.core.files import parse_json, to_json
from edgegen.core.latent import Latent
from edgegen.core.manifest import ConditionedStart
from edgegen.core.seeds import (
    CALIBRATION,
    EXPLANATION_BASELINE,
    FRESH_EVIDENCE,
    RANGES,
    SEARCH,
    USES,
    VERDICTS,
    use_of,
)
from edgegen.core.spec import TensorSpec
from edgegen.core.start import read_start, write_start
from edgegen.evidence.classes import MOST as MOST_GROUPS
from edgegen.evidence.classes import class_names, groups

X = TensorSpec("x", ("batch", 2))


def bank(count: int, negative: bool = True) -> Prompts:
    rng = np.random.default_rng(count)
    arrays: dict[str, np.ndarray] = {
        "context": rng.standard_normal((count, 3, 2)).astype(np.float16),
        "pooled": rng.standard_normal((count, 5)).astype(np.float32),
    }
    if negative:
        arrays["null_context"] = rng.standard_normal((3, 2)).astype(np.float32)
        arrays["null_pooled"] = rng.standard_normal(5).astype(np.float32)
    return Prompts(tuple(f"prompt {k}" for k in range(count)), arrays, "" if negative else None)


KINDS: dict[str, Condition] = {
    "labels": Labels(3),
    "prompts": bank(10),
    "constants": Constants({"hint": np.ones((1, 2, 2), np.float32)}),
}


def picked(prompts: Prompts, seeds: range) -> list[int]:
    """Which prompt each seed shows."""
    rows = prompts.of(seeds)["pooled"]
    own = prompts.embeddings["pooled"]
    return [int(np.abs(own - row).sum(1).argmin()) for row in rows]


def test_every_kind_is_here() -> None:
    assert KINDS.keys() == CONDITIONS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_condition_is_the_same_for_any_batch(kind: str) -> None:
    one, seeds = KINDS[kind], range(SEARCH.first, SEARCH.first + 23)
    whole = one.of(seeds)
    assert set(whole) == set(one.inputs)
    for name, rows in whole.items():
        assert rows.dtype == np.float32 and len(rows) == len(seeds)
        parts = [one.of(seeds[k : k + 5])[name] for k in range(0, 23, 5)]
        assert np.concatenate(parts).tobytes() == rows.tobytes()
        assert one.of([seeds[7]])[name].tobytes() == rows[7:8].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_condition_comes_back_from_its_manifest(kind: str) -> None:
    one = KINDS[kind]
    (again,) = conditions_from_json([parse_json(to_json(one.to_json()))], one.arrays())
    seeds = range(VERDICTS.first, VERDICTS.first + 40)
    for name, rows in one.of(seeds).items():
        assert again.of(seeds)[name].tobytes() == rows.tobytes()
    assert again.names("verdict") == one.names("verdict") and again.choices == one.choices


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (1, 2, 2)])
def test_a_bundle_s_start_keeps_the_axes_of_a_constant(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    """One number an image is not an axis of 1: a graph takes (batch,), and not (batch, 1)."""
    latent = Latent(X, (Constants({"level": np.full(shape, 0.5, np.float32)}),))
    start = ConditionedStart.model_validate(write_start(latent, tmp_path))
    again = read_start(start, lambda name: (tmp_path / name).read_bytes())
    assert again.condition(range(5))["level"].shape == (5, *shape)


def test_every_seed_has_one_use() -> None:
    for one in RANGES:
        assert use_of(one.first) == use_of(one.end - 1) == one.use
    assert use_of(-1) is None and use_of(RANGES[-1].end) is None
    assert use_of(8_999_999) == "verdict" and use_of(9_000_000) is None
    assert {one.use for one in RANGES} == {*USES, None}
    assert EXPLANATION_BASELINE.use is None


@pytest.mark.parametrize("count", [3, 4, 11, 200])
def test_calibration_search_and_verdict_see_prompts_of_their_own(count: int) -> None:
    prompts = bank(count)
    ranges = {"calibration": CALIBRATION, "search": SEARCH, "verdict": VERDICTS}
    seen = {use: picked(prompts, seeds.take(count * 3)) for use, seeds in ranges.items()}
    sets = {use: set(own) for use, own in seen.items()}
    assert sum(map(len, sets.values())) == len(set.union(*sets.values())) == count
    assert max(map(len, sets.values())) - min(map(len, sets.values())) <= 1
    for use, own in seen.items():
        shown = Counter(own)
        assert max(shown.values()) - min(shown.values()) <= 1, "any run of seeds is balanced"
        assert tuple(prompts.texts[k] for k in sorted(sets[use])) == prompts.names(use)  # type: ignore[arg-type]
    assert set(picked(prompts, FRESH_EVIDENCE.take(count * 3))) == sets["verdict"]
    assert not prompts.is_shared


def test_which_prompt_is_in_which_set_follows_from_the_texts_alone() -> None:
    one = bank(30)
    other = Prompts(one.texts, {"context": np.ones((30, 1, 1), np.float32)})
    assert [one.of_use(use) for use in USES] == [other.of_use(use) for use in USES]
    renamed = Prompts((*one.texts[:-1], "another"), other.embeddings)
    assert [one.of_use(use) for use in USES] != [renamed.of_use(use) for use in USES]
    assert prompted.prompts().of_use("verdict") == (4, 5), "a bundle of today verifies tomorrow"


def test_seeds_of_a_user_s_own_show_every_prompt() -> None:
    prompts, seeds = bank(12), CALIBRATION.take(12)
    assert set(picked(prompts.undivided(), seeds)) == set(range(12))
    assert set(picked(prompts, range(9_000_000, 9_000_012))) == set(range(12))
    latent = Latent(X, (prompts,)).undivided()
    assert latent.names(0) == prompts.texts and latent.noise == X


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_prompts_are_shared(count: int) -> None:
    prompts = bank(count)
    assert prompts.is_shared
    assert {tuple(prompts.of_use(use)) for use in USES} == {tuple(range(count))}


def test_a_negative_prompt_comes_as_the_twin_of_each_input() -> None:
    given = bank(4).of([0, 1])
    assert given["null_context"].shape == given["context"].shape == (2, 3, 2)
    assert (given["null_pooled"][0] == given["null_pooled"][1]).all()
    assert set(bank(4, negative=False).of([0])) == {"context", "pooled"}


def test_a_prompt_is_chosen_by_its_number() -> None:
    prompts = bank(6)
    wanted = prompts.embeddings["pooled"][4]
    for rows in (prompts.of([1, 2], 4), prompts.only(4).of([1, 2])):
        np.testing.assert_array_equal(rows["pooled"], [wanted, wanted])
    assert prompts.only(4).texts == ("prompt 4",)
    with pytest.raises(ValueError, match=r"the number of a prompt must be in \[0, 6\), got 6"):
        prompts.of([1], 6)


def test_a_latent_gives_all_of_its_conditions() -> None:
    latent = Latent(X, labels(3)).given({"hint": np.full((2,), 7, np.float32)})
    found = latent.condition([4, 5], label=1)
    assert found["label"].tolist() == [[0, 1, 0]] * 2 and found["hint"].tolist() == [[7, 7]] * 2
    assert (latent.classes, latent.choices, latent.names(0)) == (3, 3, ("0", "1", "2"))
    shown = Latent(X, (bank(5),))
    assert (shown.classes, shown.choices) == (0, 5) and shown.prompts is not None
    with pytest.raises(ValueError, match="two conditions give one input, of label, label"):
        Latent(X, (*labels(2), *labels(2)))
    with pytest.raises(ValueError, match="labels or prompts, not two"):
        Latent(X, (*labels(2), bank(3)))
    with pytest.raises(ValueError, match="two conditions give one input, of x"):
        Latent(X, (Constants({"x": np.ones(1, np.float32)}),))


def test_prompts_are_the_classes_of_a_verdict() -> None:
    prompts = bank(300)
    latent = Latent(X, (prompts,))
    named = class_names({"data": {"class_names": ["x"] * 300}}, latent, VERDICTS.first)
    assert named == prompts.names("verdict") and len(named) == 100
    seeds = VERDICTS.take(250)
    of = {named[seed % len(named)] for seed in seeds}
    assert of == {prompts.texts[k] for k in picked(prompts, seeds)}
    assert len(groups(named)) == MOST_GROUPS and groups(named)[0].name.startswith(named[0])
    long = Prompts(("w" * 90, "b"), {"context": np.ones((2, 1), np.float32)})
    assert long.names(None)[0] == "w" * 39 + "…"


def numbers(**changes: Any) -> dict[str, Any]:
    arrays = {"context": np.ones((2, 3), np.float32), "null_context": np.ones(3, np.float32)}
    given = {"texts": ("a", "b"), "embeddings": arrays, "negative": ""}
    arrays |= changes.pop("arrays", {})
    return given | changes


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "no prompts": (lambda: Prompts(**numbers(texts=())), f"1 to {MOST} prompts, got 0"),
    "too many": (lambda: Prompts(("a",) * (MOST + 1), {}), f"1 to {MOST} prompts, got 10001"),
    "a book": (
        lambda: Prompts(**numbers(texts=("a", "b" * (CHARACTERS + 1)))),
        "at most 2000 characters, and this one has 2001",
    ),
    "books": (
        lambda: Prompts(tuple(f"{k:04}" + "é" * 1_996 for k in range(600)), {}),
        f"more than {BYTES} bytes",
    ),
    "control characters": (
        lambda: Prompts(**numbers(texts=("a", "b\x1b[31m"))),
        r"'b\\x1b\[31m' holds control",
    ),
    "a line break": (lambda: Prompts(**numbers(negative="a\nb")), "line breaks"),
    "half a character": (lambda: Prompts(**numbers(texts=("a", "\ud800"))), "control"),
    "a number": (lambda: Prompts(**numbers(texts=("a", 7))), "a prompt is a text, not a int"),
    "twice": (lambda: Prompts(**numbers(texts=("a", "a"))), "'a' stands twice"),
    "nothing": (lambda: Prompts(**numbers(embeddings={})), "no input is given anything"),
    "a row too few": (
        lambda: Prompts(**numbers(texts=("a", "b", "c"))),
        r"context has the shape \(2, 3\), and there are 3 prompts",
    ),
    "a twin of another shape": (
        lambda: Prompts(**numbers(arrays={"null_context": np.ones(2, np.float32)})),
        r"null_context has the shape \(2,\)",
    ),
    "a twin of nothing": (
        lambda: Prompts(**numbers(arrays={"null_other": np.ones(2, np.float32)})),
        "null_other has",
    ),
    "a negative prompt without numbers": (
        lambda: Prompts(("a",), {"context": np.ones((1, 3), np.float32)}, "b"),
        "a text and an embedding, or neither",
    ),
    "no number": (
        lambda: Prompts(**numbers(arrays={"context": np.full((2, 3), np.nan, np.float32)})),
        "context holds NaN",
    ),
    "integers": (
        lambda: Prompts(**numbers(arrays={"context": np.ones((2, 3), np.int64)})),
        "context must be float32 or float16, got int64",
    ),
    "more than a graph takes": (
        lambda: Constants({"hint": np.zeros((1 << 22) + 1, np.float16)}),
        "hint has 4194305 numbers an image",
    ),
    "no constants": (lambda: Constants({}), "there are none"),
    "a name that is none": (
        lambda: Constants({"a b": np.ones(1, np.float32)}),
        "must be an identifier, got 'a b'",
    ),
    "half a class": (lambda: Labels(0.5), "1 to 100000 classes, got 0.5"),  # type: ignore[arg-type]
    "a billion classes": (lambda: Labels(10**9), "1 to 100000 classes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_condition_that_no_graph_has_is_refused(case: str) -> None:
    make, said = WRONG[case]
    with pytest.raises(ValueError, match=said):
        make()


FILES: dict[str, tuple[list[Any], str]] = {
    "no kind": ([{}], "a condition cannot be used: there is no 'kind'"),
    "another kind": ([{"kind": "magic"}], "there is no 'magic'"),
    "no object": (["labels"], "cannot be used"),
    "an array that is not there": ([{"kind": "constants", "inputs": ["b"]}], "there is no 'b'"),
    "an array too many": ([{"kind": "labels", "classes": 2}], "no condition has the array 'hint'"),
    "fields of another kind": ([{"kind": "labels", "classes": 2, "texts": []}], "texts"),
    "texts that are one": (
        [{"kind": "prompts", "inputs": ["hint"], "texts": "ab", "negative": None, "divided": 1}],
        "divided or not",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_manifest_s_condition_that_is_none_is_refused(case: str) -> None:
    data, said = FILES[case]
    with pytest.raises(ValueError, match=said):
        conditions_from_json(data, {"hint": np.ones((2, 2), np.float32)})
