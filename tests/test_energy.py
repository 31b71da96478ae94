"""What is said of cores and joules is what the kernel says, or why it says nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgegen.machine import energy, pinning
from edgegen.machine.energy import Meter, gpu_meter, gpu_state, processor_meter
from edgegen.workflows.bench_report import measured


def zone(root: Path, name: str, now: int, most: int = 1000) -> Path:
    (folder := root / name).mkdir()
    (folder / "energy_uj").write_text(f"{now}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


def test_joules_are_of_all_packages_and_a_counter_may_go_round(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", 100), zone(tmp_path, "intel-rapl:1", 990)
    zone(tmp_path, "intel-rapl:0:0", 5)  # a part of the first, which has it already
    meter = processor_meter(tmp_path)
    assert isinstance(meter, Meter)
    meter.start()
    (first / "energy_uj").write_text("300\n")
    (second / "energy_uj").write_text("20\n")
    assert meter.joules() == pytest.approx((200 + 30) / 1e6)


def test_without_a_counter_the_reason_is_said(tmp_path: Path) -> None:
    assert "shows no RAPL counters" in str(processor_meter(tmp_path))
    zone(tmp_path, "intel-rapl:0", 1).joinpath("energy_uj").unlink()
    assert "only root" in str(processor_meter(tmp_path))


def test_nvml_says_what_slows_a_gpu_or_why_it_says_nothing(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_meter() == gpu_state() == "nvidia-ml-py is not installed"
    millijoules = iter([0, 1000, 3500])
    nvml = SimpleNamespace(
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda _: "gpu",
        nvmlDeviceGetName=lambda _: b"a GPU",
        nvmlSystemGetDriverVersion=lambda: "570.1",
        nvmlDeviceGetClockInfo=lambda _, kind: 1000 * kind,
        nvmlDeviceGetPowerUsage=lambda _: 250_000,
        nvmlDeviceGetTemperature=lambda *_: 40,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda _: 0x44,
        nvmlDeviceGetTotalEnergyConsumption=lambda _: next(millijoules),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert gpu_state() == (
        "a GPU, driver 570.1, SM 1000 MHz, memory 2000 MHz, 250 W, 40 C, "
        "slowed by power limit, thermal limit of hardware"
    )
    meter = gpu_meter()
    assert isinstance(meter, Meter)
    meter.start()
    assert meter.joules() == pytest.approx(2.5)


@pytest.mark.gpu
def test_nvml_of_a_real_gpu() -> None:
    if isinstance(found := energy._nvml(), str):
        pytest.skip(f"NVML was NOT tried on a GPU: {found}")
    assert "driver" in gpu_state()


def test_energy_of_an_image_is_that_of_the_meter_over_the_images(monkeypatch: Any) -> None:
    readings = iter([0, 6_000_000])
    meter = Meter("a meter", {"x": (lambda: next(readings), 0)})
    monkeypatch.setattr(measured, "METERED", 0.0)
    pipeline: Any = lambda seeds: np.zeros((len(seeds), 3, 2, 2), np.float32)  # noqa: E731
    found = measured.metered(meter, pipeline, range(3))
    assert (found.images, found.joules_an_image, found.meter) == (3, 2.0, "a meter")


def test_threads_are_pinned_while_the_block_runs_and_no_longer() -> None:
    before = os.sched_getaffinity(0)
    with pinning.pinned(1) as said:
        assert os.sched_getaffinity(0) == {min(before)} and said == f"on core {min(before)}"
    assert os.sched_getaffinity(0) == before
    with pinning.pinned(len(before) + 1) as said:
        assert said.startswith("not pinned: ") and os.sched_getaffinity(0) == before


def test_a_system_that_does_not_pin_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("seccomp")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with pinning.pinned(1) as said:
        assert said == "not pinned: this system does not allow it (seccomp)"
