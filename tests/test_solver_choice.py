"""The solver as a choice of `generate` and `export`: who has one, and what others say."""

from __future__ import annotations

from typing import Any

import pytest

from edgegen.core.samplers import sampler_from_json, sampler_to_json
from edgegen.errors import UsageError
from edgegen.families.cas_dm import CasDmConfig
from edgegen.workflows.generators import load_generator
from edgegen.workflows.sampling_choices import SamplingChoices, chosen


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("cas-dm", SamplingChoices(solver="dpm++2m", steps=3)),
        ("lcd", SamplingChoices(way="teacher", solver="dpm++2m")),
    ],
)
def test_a_trained_generator_takes_another_solver(name: str, choices: SamplingChoices) -> None:
    source = load_generator(name)
    before: Any = source.generator.sampler
    found: Any = chosen(source, choices)[0]
    assert found.sampler.solver == "dpm++2m" and before != found.sampler
    assert choices.steps in (None, len(found.sampler.timesteps))
    assert sampler_from_json(sampler_to_json(found.sampler)) == found.sampler


@pytest.mark.parametrize(
    ("name", "choices", "text"),
    [
        (
            "cas-dm",
            SamplingChoices(solver="heun"),
            "--solver: unknown solver 'heun'; known: ddim, dpm\\+\\+2m",
        ),
        ("isc-gan", SamplingChoices(solver="ddim"), "isc-gan has no option --solver"),
        (
            "lcd",
            SamplingChoices(solver="dpm++2m"),
            "--solver does not apply to this lcd: its consistency sampler solves no equation",
        ),
        ("lcd", SamplingChoices(solver="heun"), "unknown teacher_solver 'heun'"),
        ("dkgm", SamplingChoices(solver="dpm++2m"), "dpm\\+\\+2m is for noise 0"),
    ],
)
def test_a_solver_that_a_generator_has_no_use_for(
    name: str, choices: SamplingChoices, text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        chosen(load_generator(name), choices)


def test_a_config_of_before_is_read_as_ddim() -> None:
    assert CasDmConfig().solver == "ddim"
    assert CasDmConfig(solver="dpm++2m").sampler(4).solver == "dpm++2m"
    with pytest.raises(ValueError, match="eta 0"):
        CasDmConfig(solver="dpm++2m").sampler(4, eta=0.5)
