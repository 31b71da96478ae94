"""Read the energy meters that this machine has and lets us read: RAPL of its processors, NVML of
its GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from ..core.reader import read_bytes
from ..errors import EdgegenError

POWERCAP = Path("/sys/class/powercap")
_SMALL = 4096  # bytes that the kernel returns at a time
# NVML's reasons for a lower clock that matter to a timing
_THROTTLE = {
    0x4: "power limit",
    0x8: "hardware slowdown",
    0x20: "thermal limit of software",
    0x40: "thermal limit of hardware",
    0x80: "power brake",
}


@dataclass
class Meter:
    """Hold counters in microjoules, each with the value at which it restarts (0: never)."""

    name: str
    counters: Mapping[str, tuple[Callable[[], int], int]]
    _last: dict[str, int] = field(default_factory=dict)

    def start(self) -> None:
        self._last = {name: read() for name, (read, _) in self.counters.items()}

    def joules(self) -> float:
        """Return the joules since `start`; no counter may restart more than once in between."""
        total = 0
        for name, (read, size) in self.counters.items():
            spent = read() - self._last[name]
            total += spent + size if spent < 0 else spent
        return total / 1e6


def processor_meter(root: Path = POWERCAP) -> Meter | str:
    """Return a meter of all packages by RAPL, or why there is none."""
    zones = sorted(path for path in root.glob("intel-rapl:*") if path.name.count(":") == 1)
    if not zones:
        return f"this machine shows no RAPL counters under {root}"
    try:
        counters = {}
        for zone in zones:
            read = _counter(zone / "energy_uj")
            read()
            counters[zone.name] = (read, _integer(zone / "max_energy_range_uj"))
    except (EdgegenError, ValueError):
        return "the kernel lets only root read RAPL (energy_uj)"
    return Meter("RAPL of the processor's packages", counters)


def _counter(path: Path) -> Callable[[], int]:
    return lambda: _integer(path)


def _integer(path: Path) -> int:
    return int(read_bytes(path, _SMALL))


def gpu_meter() -> Meter | str:
    """Return a meter of the first GPU by NVML, or why there is none."""
    nvml = _nvml()
    if isinstance(nvml, str):
        return nvml
    try:
        device = nvml.nvmlDeviceGetHandleByIndex(0)
        nvml.nvmlDeviceGetTotalEnergyConsumption(device)
    except Exception as error:  # NVML's own class, from a module that may be missing
        return f"NVML counts no energy here: {error}"
    read = nvml.nvmlDeviceGetTotalEnergyConsumption  # in millijoules
    return Meter("NVML of the GPU", {"gpu": (lambda: 1000 * int(read(device)), 0)})


def gpu_state() -> str:
    """Return name, driver, clocks, power and throttling of the first GPU, or why they are
    unknown.
    """
    nvml = _nvml()
    if isinstance(nvml, str):
        return nvml
    try:
        device = nvml.nvmlDeviceGetHandleByIndex(0)
        reasons = int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device))
        slowed = [word for bit, word in _THROTTLE.items() if reasons & bit]
        return (
            f"{_text(nvml.nvmlDeviceGetName(device))}, driver "
            f"{_text(nvml.nvmlSystemGetDriverVersion())}, "
            f"SM {nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_SM)} MHz, memory "
            f"{nvml.nvmlDeviceGetClockInfo(device, nvml.NVML_CLOCK_MEM)} MHz, "
            f"{nvml.nvmlDeviceGetPowerUsage(device) / 1000:.0f} W, "
            f"{nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU)} C, "
            f"{'slowed by ' + ', '.join(slowed) if slowed else 'not throttled'}"
        )
    except Exception as error:
        return f"NVML does not say: {error}"


def _text(value: str | bytes) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _nvml() -> Any:
    """Return the library with a driver behind it, or a sentence that says why there is none."""
    with contextlib.suppress(ImportError):
        nvml = import_module("pynvml")
        try:
            nvml.nvmlInit()
        except Exception as error:  # without a driver or a GPU
            return f"NVML finds no GPU: {error}"
        return nvml
    return "nvidia-ml-py is not installed"
