"""Check that two executions of one graph agree: with torch in FP32, with the ONNX reference
evaluator in INT8. It needs numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.files import JsonObject
from ..core.spec import Array
from ..errors import GateFailed

# largest absolute difference of an output value between torch and an FP32 runtime
FP32_LIMIT = 1e-4
ROUNDING_DB = 80.0  # dB of signal over error that float32 rounding alone can leave
# the same for float16: a CPU that executes such a file rounds less often than the file says
HALF_DB = 45.0
# float16 before a quantizer now and then moves a value over an edge, which gives as much error as
# quantization does
FLIPPED_DB = 6.0
WORST_DB = 20.0  # dB by which a runtime must agree with the referee whatever quantization costs
PIXEL_LIMIT = 0.999  # share of pixels that must lie within one level of 255 between FP32 runtimes

Execute = Callable[..., Array]
Inputs = Mapping[str, Array]


def largest_difference(a: Execute, b: Execute, calls: Sequence[Inputs]) -> float:
    """Return the largest absolute difference over all calls; NaN anywhere counts as infinite."""
    # np.max keeps a NaN, which max may drop
    worst = float(np.max([np.abs(a(**inputs) - b(**inputs)).max() for inputs in calls]))
    return worst if np.isfinite(worst) else float("inf")


def check_fp32(name: str, worst_by_graph: Mapping[str, float], origin: str = "torch") -> None:
    """Raise GateFailed, which names runtime and graph, if FP32 differs by more than FP32_LIMIT from
    `origin`, which executes the generator.
    """
    for graph, worst in worst_by_graph.items():
        if not worst <= FP32_LIMIT:
            what = (
                f"{name} computes graph {graph} differently from {origin}: {worst:.2g}, limit "
                f"{FP32_LIMIT:g}"
            )
            raise GateFailed("E-PARITY", what)


def same_pixels(a: np.ndarray, b: np.ndarray) -> float:
    """Return the share of pixel values of two uint8 image sets that lie within one level."""
    return float((np.abs(a.astype(np.int16) - b) <= 1).mean())


@dataclass(frozen=True)
class Refereed:
    """Hold how close a runtime is to the referee on the same INT8 file, and the referee to FP32, in
    dB of signal over error.
    """

    runtime_db: float
    quantization_db: float
    half: bool = False  # whether the file holds float16

    @property
    def agrees(self) -> bool:
        """Return whether the runtime adds less error than quantization itself does; False
        for NaN.

        If quantization costs next to nothing, float rounding is allowed; if it costs nearly
        everything, WORST_DB is still required.
        """
        most, slack = (HALF_DB, FLIPPED_DB) if self.half else (ROUNDING_DB, 0.0)
        return self.runtime_db > min(max(self.quantization_db - slack, WORST_DB), most)

    def to_json(self) -> JsonObject:
        return {"runtime_db": self.runtime_db, "quantization_db": self.quantization_db}


def referee(
    runtime: Execute, reference: Execute, full: Execute, calls: Sequence[Inputs], half: bool = False
) -> Refereed:
    """Compare three executions of a graph; the last executes the FP32 graph.

    Returns dB of signal over error, 200 for equal outputs.
    """
    outputs = [(runtime(**i), reference(**i), full(**i)) for i in calls]
    ran, judged, exact = (
        np.concatenate([o[k] for o in outputs]).astype(np.float64) for k in range(3)
    )
    return Refereed(signal_to_error_db(judged, ran), signal_to_error_db(exact, judged), half)


def signal_to_error_db(signal: np.ndarray, other: np.ndarray) -> float:
    """How near `other` is to `signal`, of one shape, in dB: 200 where they are equal, and -200
    where a value is no number.
    """
    error, power = np.square(signal - other).mean(), np.square(signal).mean()
    if not (np.isfinite(error) and np.isfinite(power)):
        return -200.0
    if error == 0:
        return 200.0
    return float(np.clip(10 * np.log10(power / error), -200, 200)) if power > 0 else -200.0


def check_referee(name: str, by_graph: Mapping[str, Refereed]) -> None:
    """Raise GateFailed, which names runtime and graph, if a runtime computes something else than
    its own file says.
    """
    for graph, result in by_graph.items():
        if not result.agrees:
            raise GateFailed(
                "E-PARITY",
                f"{name} computes INT8 graph {graph} wrongly: {result.runtime_db:.0f} dB from the "
                "ONNX reference "
                "evaluator on the same file, where quantization itself costs "
                f"{result.quantization_db:.0f} dB",
                hint=f"leave {name} out, or use another version of it",
            )


def check_pixels(first: str, second: str, share: float) -> None:
    """Raise GateFailed if two FP32 runtimes give different images from the same seeds."""
    if not share >= PIXEL_LIMIT:
        what = (
            f"{first} and {second} give different FP32 images: only {share:.2%} of pixels "
            "within one level"
        )
        raise GateFailed("E-PARITY", what)
