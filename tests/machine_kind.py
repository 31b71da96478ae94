"""Which kind of machine the tests ran on, of those that round differently, and which kinds they
did not run on.

ONNX Runtime and OpenVINO choose other INT8 kernels on a CPU with AMX than on one without, weights
have 7 bits where VNNI is missing, and BLAS sums in another order on AMD: what passes on one kind
says little about the next.
"""

from __future__ import annotations

import re
from pathlib import Path

INTEL_AMX, INTEL = "Intel with AMX", "Intel without AMX"
AMD, AMD_OLD = "AMD with VNNI", "AMD without VNNI"
KINDS = (INTEL_AMX, INTEL, AMD, AMD_OLD)
INSTRUCTIONS = {
    "amx_int8": "AMX",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx2": "AVX2",
}


def kind_of(cpu_info: str) -> str:
    """One of KINDS, or "another kind", of the text of /proc/cpuinfo."""
    flags, vendor = _field(cpu_info, "flags").split(), _field(cpu_info, "vendor_id")
    if vendor == "GenuineIntel":
        return INTEL_AMX if "amx_int8" in flags else INTEL
    if vendor == "AuthenticAMD":
        return AMD if {"avx512_vnni", "avx_vnni"} & set(flags) else AMD_OLD
    return "another kind"


def described(cpu_info: str) -> str:
    """One line: kind, model, widest INT8 instructions, and the kinds that did not run."""
    flags = _field(cpu_info, "flags").split()
    widest = next((name for flag, name in INSTRUCTIONS.items() if flag in flags), "no AVX2")
    here, model = kind_of(cpu_info), _field(cpu_info, "model name") or "unknown model"
    others = ", ".join(kind for kind in KINDS if kind != here)
    return f"machine kind: {here} ({model}, {widest}); not run here: {others}"


def cpu_info() -> str:
    """What this machine says of its first CPU; nothing where there is no /proc."""
    path = Path("/proc/cpuinfo")
    return path.read_text().partition("\n\n")[0] if path.is_file() else ""


def _field(cpu_info: str, name: str) -> str:
    line = re.search(rf"^{name}\s*:\s*(.*)$", cpu_info, re.MULTILINE)
    return line[1].strip() if line else ""


if __name__ == "__main__":
    print(described(cpu_info()))
