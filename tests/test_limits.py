"""Numbers that nobody would mean are refused where they enter: settings of programs, flags of the
command line, fields of configurations.
"""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

import edgegen
from edgegen.cli import main
from edgegen.core.files import is_version
from edgegen.errors import UsageError
from edgegen.workflows.finetune.setup import FinetuneChoices
from edgegen.workflows.limits import LIMITS

SETTINGS = [
    kind
    for name in edgegen.__all__
    if isinstance(kind := getattr(edgegen, name), type)
    and is_dataclass(kind)
    and name.endswith(("Settings", "Execution", "Choices"))
]
NEEDED: dict[type, dict[str, Any]] = {FinetuneChoices: {"size": 32, "rank": 4}}


def numbers(kind: type) -> dict[str, type]:
    """Its fields that are numbers, and which, as its source writes them."""
    found: dict[str, type] = {}
    for field in fields(kind):
        words = {word.strip() for word in str(field.type).split("|")}
        for number in (int, float):
            if number.__name__ in words:
                found[field.name] = number
    return found


CASES = [
    (kind, name, n) for kind in [*SETTINGS, FinetuneChoices] for name, n in numbers(kind).items()
]


def test_every_number_that_can_be_set_has_its_range() -> None:
    assert len(SETTINGS) > 10 and len(CASES) > 40
    assert {name for _, name, _ in CASES} == set(LIMITS)


@pytest.mark.parametrize(
    ("kind", "name", "number"), CASES, ids=[f"{k.__name__}.{name}" for k, name, _ in CASES]
)
def test_a_number_out_of_its_range_is_refused(
    kind: type, name: str, number: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong: list[object] = [-1, -(10**40), 10**40, True, "3", math.nan, math.inf, -math.inf]
    for value in [*wrong, *([0.5] if number is int else [])]:
        with pytest.raises(UsageError) as caught:
            kind(**{**NEEDED.get(kind, {}), name: value})
        words = (LIMITS[name].flag or name, "must be")
        assert all(word in caught.value.message for word in words), value
        assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "command",
    [
        "generate b -o o --threads 9999999999",
        "generate b -o o -n 99999999999",
        "bench b --threads 9999999999",
        "bench b --rounds 99999999999",
        "verify b --threads 9999999999",
        "export cas-dm --int8 -o o --min-psnr nan",
        "export cas-dm --int8 -o o --min-psnr inf",
        "export cas-dm --int8 -o o --threads 9999999999",
        "export cas-dm --int8 -o o --fid-budget nan",
        "export cas-dm --int8 -o o --max-images 999999999999",
        "export cas-dm --int8 -o o --steps 999999",
        "calibrate cas-dm -o o --samples 999999999999",
        "finetune cas-dm o --data p --rate nan",
        "finetune cas-dm o --data p --rate 1e9",
        "finetune cas-dm o --data p --held-out nan",
        "finetune cas-dm o --data p --rank 99999999",
        "finetune cas-dm o --data p --size 99999999",
        "recover cas-dm o --plan p --rate inf",
        "recover cas-dm o --plan p --batch 99999999999",
        "train cas-dm o --data p --threads 9999999999",
        "train cas-dm o --data p --images 99999999999999999",
        "train cas-dm o --data p --keep 99999999999",
        "train cas-dm o --data p --seed 99999999999999999999",
        "train cas-dm o --data p --set size=99999999999",
        "train cas-dm o --data p --set size=true",
        "train cas-dm o --data p --set theta.dropout=1e300",
        "estimate cas-dm --batch 99999999999",
        "explain cas-dm -o o --baseline 99999999999",
        "damage cas-dm b -o o --seeds 0",
        "photos check p --held-out inf",
    ],
)
def test_the_command_line_refuses_it_before_any_work(
    command: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").mkdir()
    assert main.run(command.split()) == 2
    said = capfd.readouterr().err
    assert said.startswith("error[E-") and len(said.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


@pytest.mark.parametrize("value", [True, 1.0, "1", None, 2, [1]])
def test_a_version_is_the_number_itself(value: object) -> None:
    assert is_version(1, 1) and not is_version(value, 1)
