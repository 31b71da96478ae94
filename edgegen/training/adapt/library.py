"""peft and bitsandbytes, imported so that neither reaches for a network: they are the extra
`adapt`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import RuntimeMissing

_NOTICE = "Failed to load CPU gemm_4bit_forward from kernels-community"


@contextmanager
def importing(package: str) -> Iterator[None]:
    """Around the first import of `package`, peft or bitsandbytes; RuntimeMissing if it is not
    installed.

    On a CPU with AVX512-BF16 bitsandbytes (0.50.2) asks a hub for a faster kernel as soon as it is
    imported, and peft imports it: `kernels`, the package that would fetch it, is hidden while the
    block runs, and the notice that it is not there dropped.
    """
    absent = object()
    before = sys.modules.get("kernels", absent)
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    # importing it raises ImportError, which bitsandbytes expects
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
