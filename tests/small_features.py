"""Runs that tests make measure their photos at 32 px: at the 128 that users get, features take
most of the time of a toy's training.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

SIZE = 32
# these are about the networks themselves
AT_FULL_SIZE = frozenset({"test_features.py", "test_fast_features.py", "test_feature_files.py"})
_published: dict[str, Any] = {}


def install(file: str) -> None:
    """For the tests of this file, once the networks' module is imported."""
    module: Any = sys.modules.get("edgegen.evidence.features")
    if module is not None:
        kind = _published.setdefault(module.LITE0, module.KINDS[module.LITE0])
        small = replace(kind, size=lambda _: SIZE)
        module.KINDS[module.LITE0] = kind if file in AT_FULL_SIZE else small
