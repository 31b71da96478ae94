"""The device of a run, which the user names; a missing device is an error, never replaced."""

from __future__ import annotations

import torch

from ..errors import RuntimeMissing, UsageError

DEVICES = ("cpu", "cuda")


def device_of(name: str, index: int = 0) -> torch.device:
    """Return the device "cpu", or for "cuda" GPU number `index`.

    UsageError for another name, RuntimeMissing if torch sees no such GPU.
    """
    if name not in DEVICES:
        raise UsageError("E-DEVICE", f"unknown device {name!r}; known: {', '.join(DEVICES)}")
    if name == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        why = (
            "has no CUDA in it"
            if torch.version.cuda is None
            else f"is for CUDA {torch.version.cuda} and sees no GPU"
        )
        raise RuntimeMissing(
            "E-DEVICE",
            f"device cuda cannot be used here: torch {torch.__version__} {why}",
            hint="use --device cpu, or install a driver and a torch with CUDA",
        )
    if index >= torch.cuda.device_count():
        raise RuntimeMissing(
            "E-DEVICE",
            f"GPU {index} is asked for, torch sees {torch.cuda.device_count()}",
            hint="start as many processes as there are GPUs",
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def precision_on(device: str, wanted: str) -> str:
    """Return the wanted precision, or "fp32" instead of "bf16" on a CPU without bf16 in oneDNN.

    There torch uses plain loops for bf16, and a step takes seven times as long (cas-dm's
    fine-tuning, one thread of an AMD EPYC with AVX2).
    """
    if wanted != "bf16" or device != "cpu":
        return wanted
    onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return "bf16" if onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


def configure(device: torch.device, precision: str) -> None:
    """Set a GPU's matrix products to TF32 (10 bits of mantissa) for bf16, which has 7, and to full
    FP32 otherwise. On a CPU nothing is set.
    """
    if device.type == "cuda":
        rounding = "tf32" if precision == "bf16" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = rounding
        torch.backends.cudnn.conv.fp32_precision = rounding  # type: ignore[attr-defined]
        # Shapes never change, so measuring the fastest kernels in the first step is worth it.
        torch.backends.cudnn.benchmark = True
