"""The abilities of this processor for 8-bit arithmetic. (standard library only)"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

# The CPU features that decide the speed of INT8 and reduced precision on x86 and ARM.
CPU_FLAGS = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
)
X86 = ("x86_64", "AMD64", "i386", "i686")
SUMS_IN_32_BITS = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})


def cpu_model() -> str:
    """Return the processor's name, such as "AMD EPYC", or its architecture if it has none."""
    return cpu_line("model name") or platform.machine()


def cpu_flags() -> list[str]:
    """Return those of CPU_FLAGS that the kernel reports."""
    present = (cpu_line("flags") or cpu_line("Features")).split()
    return [flag for flag in CPU_FLAGS if flag in present]


@cache
def weight_bits() -> int:
    """Return the bits, 8 or 7, that int8 weights may use without overflow in this CPU's kernels.

    x86 without VNNI or AMX adds two products of an unsigned and a signed byte in 16 bits, with
    saturation (the instruction VPMADDUBSW): 2 * 255 * 127 does not fit, 2 * 255 * 63 does. Measured
    on an AMD EPYC with AVX2 alone: OpenVINO and ONNX Runtime are 39 to 69 dB from the ONNX
    reference on 8-bit weights, about as far as quantization itself, and 134 dB or more on 7-bit
    weights.
    """
    if platform.machine() not in X86 or SUMS_IN_32_BITS & set(cpu_flags()):
        return 8
    return 7


def cpu_line(key: str) -> str:
    """Return the first value of `key` in /proc/cpuinfo, or "" if there is none."""
    info = Path("/proc/cpuinfo")
    for line in info.read_text(errors="replace").splitlines() if info.is_file() else ():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
