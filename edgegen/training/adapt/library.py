"""Imports of peft and bitsandbytes (the extra `adapt`) that keep both off the network."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import RuntimeMissing

_NOTICE = "Failed to load CPU gemm_4bit_forward from kernels-community"


@contextmanager
def importing(package: str) -> Iterator[None]:
    """Wrap the first import of `package`, peft or bitsandbytes. RuntimeMissing if it is not
    installed.

    On a CPU with AVX512-BF16 bitsandbytes (0.50.2), which peft also imports, requests a faster
    kernel from a hub at import. So `kernels`, the package that would download it, is hidden during
    the block, and the notice about its absence is dropped.
    """
    absent = object()
    before = sys.modules.get("kernels", absent)
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    # With None, importing `kernels` raises ImportError, which bitsandbytes handles.
    sys.modules["kernels"] = None  # type: ignore[assignment]
    log.addFilter(_other)
    try:
        yield
    except ImportError as error:
        raise RuntimeMissing(
            "E-BACKEND",
            f"{package} cannot be imported: {error}",
            hint='pip install "edgegen[adapt]"',
        ) from error
    finally:
        log.removeFilter(_other)
        if before is absent:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = before  # type: ignore[assignment]


def _other(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_NOTICE)
