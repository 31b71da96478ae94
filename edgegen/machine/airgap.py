"""Check for doctor --airgap whether anything that runs here wants the network. Everything that
doctor tries is tried in sealed processes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.offline import OFFLINE, TELEMETRY
from .network_sandbox import unwatched

# seconds that a sealed process continues after its work, because ONNX Runtime's telemetry waits 9
# seconds before it opens a socket
LISTEN = 12.0
Check = tuple[bool, str]  # whether it holds, and what was found


def report(
    attempts: Mapping[str, Sequence[str]], more: Mapping[str, Check] | None = None
) -> dict[str, Any]:
    """Return the report for --json.

    `attempts` says what wanted the network, by what was being tried; `more` has checks that this
    module knows nothing about.
    """
    wishes = [f"{what}: {wish}" for what, found in attempts.items() for wish in found]
    nobody = f"nobody opened an internet socket or looked up a name: {', '.join(attempts)}"
    checks: dict[str, Check] = {
        "network": (not wishes, "; ".join(wishes) or nobody),
        "native code": (
            unwatched() is None,
            unwatched() or "watched by the kernel, as Python code by an audit hook",
        ),
        "variables": _variables(os.environ),
        "OpenVINO's telemetry": _telemetry(),
        **(more or {}),
    }
    return {
        "checks": {name: {"ok": ok, "found": found} for name, (ok, found) in checks.items()},
        "attempts": {name: list(found) for name, found in attempts.items()},
        "listened_s": LISTEN,
    }


def _variables(environment: Mapping[str, str]) -> Check:
    others = [
        f"{name}={environment.get(name, '')} is set, {value} keeps its library off the network"
        for name, value in sorted(OFFLINE.items())
        if environment.get(name) != value
    ]
    return not others, "; ".join(
        others
    ) or f"all {len(OFFLINE)} that keep libraries off the network are set"


def _telemetry() -> Check:
    if TELEMETRY not in sys.modules:
        return False, f"{TELEMETRY} may be imported: call edgegen.offline() first"
    if sys.modules[TELEMETRY] is None:
        return True, "disarmed"
    return False, f"{TELEMETRY} was imported before edgegen and reports to its maker"
