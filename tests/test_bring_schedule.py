"""Samplers of scheduler files: each gives what diffusers' own loop gives with the same denoiser and
the same noise, and a field that cannot be reproduced is refused by its name.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgegen.bring.noise_levels import BETAS, signal_levels
from edgegen.bring.schedule import SCHEDULERS, schedule
from edgegen.bring.scheduler_fields import DdpmFields
from edgegen.core.rehearsal import bounded_sampler
from edgegen.core.samplers import (
    Sampler,
    sampler_from_json,
    sampler_to_json,
    stopped,
)
from edgegen.errors import InputError

Config = dict[str, Any]
SHAPE = (2, 3, 4, 4)
FILE = Path("scheduler/scheduler_config.json")
SPACINGS = ("linspace", "leading", "trailing")
ALL, NO_SAMPLE = ("epsilon", "v_prediction", "sample"), ("epsilon", "v_prediction")
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
NO_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}


def noise(stream: str) -> np.ndarray:
    seed = sum(map(ord, stream)) + 1000 * len(stream)
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def denoiser(config: Config, scheduler: Any) -> Callable[[torch.Tensor, float], torch.Tensor]:
    """What says that the clean image is a smooth function of x, in the words of the prediction."""
    prediction = config.get("prediction_type", "epsilon")
    levels = scheduler.alphas_cumprod.double().numpy()
    continuous = config.get("timestep_type") == "continuous" and prediction == "v_prediction"

    def predict(x: torch.Tensor, t: float) -> torch.Tensor:
        level = (
            1 / (np.exp(8 * t) + 1) if continuous else np.interp(t, np.arange(len(levels)), levels)
        )
        image, spread = float(level) ** 0.5, float(1 - level) ** 0.5
        clean = 0.6 * torch.tanh(1.3 * x + 0.2 * np.sin(t))
        if prediction == "sample":
            return clean
        eps = (x - image * clean) / max(spread, 1e-3)
        return eps if prediction == "epsilon" else image * eps - spread * clean

    return predict


def theirs(config: Config, steps: int, monkeypatch: pytest.MonkeyPatch, **extra: Any) -> np.ndarray:
    """diffusers' own loop."""
    import diffusers

    kind = getattr(diffusers, config["_class_name"])
    scheduler = kind.from_config({k: v for k, v in config.items() if k != "_class_name"})
    scheduler.set_timesteps(steps)
    step = 0
    monkeypatch.setattr(
        sys.modules[kind.__module__],
        "randn_tensor",
        lambda *_, **__: torch.from_numpy(noise(f"step{step}")),
        raising=False,
    )
    predict = denoiser(config, scheduler)
    x = torch.from_numpy(noise("start")) * scheduler.init_noise_sigma
    for step, t in enumerate(scheduler.timesteps):  # noqa: B007 - the noise reads it
        output = predict(scheduler.scale_model_input(x, t), float(t))
        x = scheduler.step(output, t, x, return_dict=False, **extra)[0]
    return x.clip(-1, 1).numpy()


def ours(sampler: Sampler, config: Config) -> np.ndarray:
    import diffusers

    kind = getattr(diffusers, config["_class_name"])
    plain = {k: v for k, v in config.items() if k != "_class_name"}
    predict = denoiser(config, kind.from_config(plain))

    def call(x: np.ndarray, t: np.ndarray) -> np.ndarray:
        assert t.shape == (2,) and t.dtype == np.float32
        return predict(torch.from_numpy(x), float(t[0])).numpy()

    found: np.ndarray = sampler({"denoiser": call}, noise("start"), {}, noise)
    assert found.dtype == np.float32
    return found


def cases() -> Iterator[tuple[str, Config, int, dict[str, Any]]]:
    """Every scheduler with every prediction and spacing, and each other field away from its
    default.
    """

    def spread(kind: str, predictions: tuple[str, ...], **more: Any) -> Iterator[Config]:
        for prediction, spacing in product(predictions, SPACINGS):
            yield {
                "_class_name": kind,
                "prediction_type": prediction,
                "timestep_spacing": spacing,
                **more,
            }

    def many(configs: Iterator[Config], steps: int, **extra: Any) -> Iterator[Any]:
        for config in configs:
            words = [str(v) for k, v in config.items() if k != "trained_betas"]
            yield "-".join([*words, str(steps), *map(str, extra.values())]), config, steps, extra

    for changes in (
        {},
        {"clip_sample": False, **LATENT, "steps_offset": 1},
        {"variance_type": "fixed_large", "beta_schedule": "squaredcos_cap_v2"},
        {"variance_type": "fixed_small_log", "clip_sample_range": 0.5},
        {"trained_betas": np.linspace(1e-4, 0.03, 1000).tolist()},
    ):
        yield from many(spread("DDPMScheduler", ALL, **changes), 12)
    for name in ("sigmoid", "laplace"):
        yield from many(spread("DDPMScheduler", ALL[:1], beta_schedule=name), 7)
    for eta in (0.0, 0.7):
        for changes in (
            {},
            {"clip_sample": False, **LATENT, "set_alpha_to_one": False, "steps_offset": 1},
        ):
            yield from many(spread("DDIMScheduler", ALL, **changes), 11, eta=eta)
    for prediction in ("v_prediction", "sample"):
        config = {"_class_name": "DDIMScheduler", "prediction_type": prediction, **NO_SNR}
        yield from many(iter([{**config, "clip_sample": False}]), 10, eta=0.5)
    for steps in (1, 2, 12):
        changes = {"skip_prk_steps": True, **LATENT, "steps_offset": 1}
        yield from many(
            (
                config
                for config in spread("PNDMScheduler", NO_SAMPLE, **changes)
                if config["timestep_spacing"] == "leading"
            ),
            steps,
        )
    yield from many(
        spread("PNDMScheduler", NO_SAMPLE, skip_prk_steps=True, set_alpha_to_one=True, **LATENT), 9
    )
    for changes in (
        {},
        {**LATENT, "steps_offset": 1, "final_sigmas_type": "sigma_min"},
        {"use_karras_sigmas": True, **LATENT},
        {"use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 12.0},
        {"use_exponential_sigmas": True},
        {"interpolation_type": "log_linear"},
    ):
        yield from many(spread("EulerDiscreteScheduler", ALL, **changes), 12)
    for prediction in NO_SAMPLE:
        continuous = {"timestep_type": "continuous", "use_karras_sigmas": True, "sigma_min": 0.02}
        config = {"_class_name": "EulerDiscreteScheduler", "prediction_type": prediction}
        if prediction == "v_prediction":
            yield from many(iter([{**config, **continuous, "sigma_max": 80.0}]), 12)
        for kind in ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"):
            yield from many(iter([{**config, "_class_name": kind, **NO_SNR}]), 12)
    for changes in ({}, {**LATENT, "steps_offset": 1}):
        yield from many(spread("EulerAncestralDiscreteScheduler", NO_SAMPLE, **changes), 12)
    for changes, steps in (
        ({}, 12),
        ({**LATENT, "steps_offset": 1}, 20),
        ({"solver_order": 1}, 8),
        ({"use_karras_sigmas": True, **LATENT}, 16),
        ({"use_exponential_sigmas": True, "sigma_max": 99.0}, 12),
        ({"solver_type": "heun", "final_sigmas_type": "sigma_min", "steps_offset": 1}, 18),
        ({"lower_order_final": False, "euler_at_final": True, "solver_type": "bh2"}, 12),
        ({"algorithm_type": "sde-dpmsolver++"}, 12),
        ({"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}, 12),
        ({"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1}, 12),
        ({"beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": True, "sigma_max": 50.0}, 8),
    ):
        yield from many(spread("DPMSolverMultistepScheduler", ALL, **changes), steps)
    for changes, steps in (({}, 4), ({"clip_sample": True}, 1), ({"timestep_scaling": 3.0}, 8)):
        for prediction in ALL:
            config = {"_class_name": "LCMScheduler", "prediction_type": prediction, **changes}
            yield from many(iter([config]), steps)


CASES = list(cases())


@pytest.mark.slow  # imports diffusers
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of diffusers, about numpy
@pytest.mark.parametrize("kind", sorted(SCHEDULERS))
def test_the_sampler_gives_what_diffusers_gives(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried, worst = 0, {}
    for name, config, steps, extra in CASES:
        if config["_class_name"] == kind:
            sampler = schedule(config, FILE, steps, **extra)
            wanted = theirs(config, steps, monkeypatch, **extra)
            assert 0.05 < wanted.std() < 0.9 and np.isfinite(wanted).all(), name
            worst[name] = float(np.abs(ours(sampler, config) - wanted).max())
            tried += 1
    print(max(worst.values()))
    assert tried >= 3 and {name: d for name, d in worst.items() if not d <= 1e-5} == {}


@pytest.mark.parametrize("kind", sorted(SCHEDULERS))
def test_a_sampler_is_flat_data(kind: str) -> None:
    """A bundle's manifest takes it, and gives it back."""
    seen = 0
    for _, config, steps, extra in CASES:
        if config["_class_name"] == kind:
            sampler = schedule(config, FILE, steps, **extra)
            data = json.loads(json.dumps(sampler_to_json(sampler), allow_nan=False))
            bounded_sampler(data)
            assert sampler_from_json(data) == sampler
            assert [float(np.float32(t)) for t in sampler.timesteps] == list(sampler.timesteps)
            seen += 1
    assert seen


@pytest.mark.slow  # imports diffusers
def test_a_schedule_is_that_of_diffusers() -> None:
    import diffusers

    for name in BETAS:
        for rescaled in (False, True):
            wanted = diffusers.DDPMScheduler(beta_schedule=name, rescale_betas_zero_snr=rescaled)
            fields = DdpmFields.model_validate(
                {"beta_schedule": name, "rescale_betas_zero_snr": rescaled}
            )
            found = signal_levels(fields)
            np.testing.assert_allclose(found, wanted.alphas_cumprod.numpy(), rtol=2e-5, atol=1e-9)
            assert found.dtype == np.float32 and len(found) == 1000


def test_without_steps_a_scheduler_takes_as_many_as_its_pipeline() -> None:
    counts = {
        kind: len(schedule({"_class_name": kind, "skip_prk_steps": True}, FILE).timesteps)
        for kind in SCHEDULERS
    }
    assert counts == {
        "DDPMScheduler": 50,
        "DDIMScheduler": 50,
        "PNDMScheduler": 51,
        "LCMScheduler": 4,
        "EulerDiscreteScheduler": 50,
        "EulerAncestralDiscreteScheduler": 50,
        "DPMSolverMultistepScheduler": 25,
    }
    assert (
        len(schedule({"_class_name": "DDIMScheduler", "num_train_timesteps": 9}, FILE).noise) == 0
    )


def test_what_stable_diffusion_s_own_file_says() -> None:
    """Its fields of other schedulers are passed over, as diffusers does."""
    config = {
        "_class_name": "PNDMScheduler",
        "_diffusers_version": "0.6.0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "trained_betas": None,
    }
    assert schedule(config, FILE).timesteps[:4] == (981, 961, 961, 941)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"_class_name": "UniPCMultistepScheduler"}, "the scheduler is 'UniPCMultistepScheduler'"),
        ({"_class_name": "\x1b[31m"}, r"the scheduler is '\\x1b\[31m', which is not one"),
        ({}, "the scheduler is None"),
        ({"_class_name": "DDIMScheduler", "wobble": 1}, "has the unknown field 'wobble'"),
        (
            {"_class_name": "DDIMScheduler", "beta_schedule": "exp"},
            "beta_schedule of DDIMScheduler",
        ),
        ({"_class_name": "DDIMScheduler", "prediction_type": "flow"}, "prediction_type of DDIM"),
        ({"_class_name": "DDIMScheduler", "timestep_spacing": 3}, "timestep_spacing of DDIM"),
        ({"_class_name": "DDIMScheduler", "thresholding": True}, "thresholding of DDIMScheduler"),
        (
            {"_class_name": "DDIMScheduler", "beta_end": "much"},
            "beta_end of DDIMScheduler is 'much",
        ),
        ({"_class_name": "DDIMScheduler", "beta_end": 1.5}, "give a beta outside 0 to 1"),
        ({"_class_name": "DDIMScheduler", "beta_end": -1}, "beta_end of DDIMScheduler is -1"),
        ({"_class_name": "DDIMScheduler", "trained_betas": [0.1]}, "trained_betas has 1 numbers"),
        ({"_class_name": "DDIMScheduler", "steps_offset": 99}, "steps_offset give the timesteps"),
        ({"_class_name": "DDIMScheduler", "num_train_timesteps": 0}, "takes 1 to 0 steps here"),
        (
            {"_class_name": "DDIMScheduler", **NO_SNR},
            "leaves nothing to compute with at timestep 9",
        ),
        (
            {"_class_name": "DDPMScheduler", "variance_type": "learned_range"},
            "variance_type of DDPM",
        ),
        ({"_class_name": "DDPMScheduler", "variance_type": "fixed_large_log"}, "variance_type of"),
        ({"_class_name": "PNDMScheduler"}, "the field 'skip_prk_steps' of PNDMScheduler is absent"),
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": False}, "skip_prk_steps of PNDM"),
        (
            {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "prediction_type": "sample"},
            "prediction_type of PNDMScheduler",
        ),
        ({"_class_name": "EulerDiscreteScheduler", "use_beta_sigmas": True}, "use_beta_sigmas of"),
        (
            {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "x"},
            "interpolation_type",
        ),
        (
            {"_class_name": "EulerDiscreteScheduler", "final_sigmas_type": "x"},
            "final_sigmas_type of",
        ),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_type": "x"}, "timestep_type of Euler"),
        (
            {
                "_class_name": "EulerDiscreteScheduler",
                "use_karras_sigmas": True,
                "use_exponential_sigmas": True,
            },
            "use_karras_sigmas and use_exponential_sigmas are both true",
        ),
        (
            {"_class_name": "EulerAncestralDiscreteScheduler", "prediction_type": "sample"},
            "prediction_type of EulerAncestral",
        ),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 3}, "solver_order of DPM"),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_type": "x"}, "solver_type of DPM"),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"},
            "algorithm_type of DPM",
        ),
        *(
            ({"_class_name": "DPMSolverMultistepScheduler", name: True}, f"{name} of DPM")
            for name in (
                "use_lu_lambdas",
                "use_flow_sigmas",
                "use_beta_sigmas",
                "use_dynamic_shifting",
                "thresholding",
            )
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "variance_type": "learned"},
            "variance_type of DPM",
        ),
        (
            {"_class_name": "LCMScheduler", "original_inference_steps": 2},
            "original_inference_steps",
        ),
    ],
)
def test_what_cannot_be_reproduced_is_refused_by_its_name(config: Config, text: str) -> None:
    with pytest.raises(InputError, match=text) as caught:
        schedule(config, FILE, 10 if "SNR" in str(config) else None)
    assert caught.value.code == "E-BRING" and caught.value.path == str(FILE)


@pytest.mark.parametrize(
    ("steps", "eta", "text"),
    [(0, 0, "takes 1 to 1000 steps here, got 0"), (1001, 0, "got 1001"), (5, 0.5, "eta 0.5")],
)
def test_steps_and_noise_that_it_cannot_take(steps: int, eta: float, text: str) -> None:
    with pytest.raises(InputError, match=text):
        schedule({"_class_name": "DDPMScheduler"}, FILE, steps, eta)


def test_a_stopped_solver_returns_the_clean_image_it_has() -> None:
    config = {"_class_name": "DPMSolverMultistepScheduler"}
    whole = schedule(config, FILE, 6)
    assert stopped(whole, 6) == whole
    for steps in (1, 3):
        few = stopped(whole, steps)
        seen: list[Any] = []

        def call(x: Any, t: Any, seen: list[Any] = seen) -> Any:
            seen.append((x.copy(), float(t[0])))
            return np.sin(x)

        image = few({"denoiser": call}, noise("start"), {}, noise)
        assert [t for _, t in seen] == list(whole.timesteps[:steps])
        last, k = seen[-1][0], steps - 1
        wanted = whole.clean_from_x[k] * last + whole.clean_from_output[k] * np.sin(last)
        np.testing.assert_allclose(image, wanted.clip(-1, 1), atol=1e-6)
