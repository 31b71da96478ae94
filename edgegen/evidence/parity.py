"""Do two executions of one graph agree? Against torch in FP32, against the ONNX reference evaluator
in INT8. (numpy only)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.files import JsonObject
from ..core.spec import Array
from ..errors import GateFailed

# largest absolute difference of any output value between torch and an FP32 runtime
FP32_LIMIT = 1e-4
ROUNDING_DB = 80.0  # signal over error that float32 rounding alone can leave
# the same of float16: where a CPU executes such a file, it rounds less often than the file says
HALF_DB = 45.0
# float16 in front of a quantizer moves a value over the edge now and then: as much error as
# quantization makes
FLIPPED_DB = 6.0
WORST_DB = 20.0  # a runtime must be this near the referee whatever quantization costs
PIXEL_LIMIT = 0.999  # share of pixels that must be within one level of 255 between FP32 runtimes

Execute = Callable[..., Array]
Inputs = Mapping[str, Array]


def largest_difference(a: Execute, b: Execute, calls: Sequence[Inputs]) -> float:
    """Over all calls; NaN anywhere counts as infinite."""
    # unlike max, np.max keeps a NaN
    worst = float(np.max([np.abs(a(**inputs) - b(**inputs)).max() for inputs in calls]))
    return worst if np.isfinite(worst) else float("inf")


def check_fp32(name: str, worst_by_graph: Mapping[str, float], origin: str = "torch") -> None:
    """GateFailed names the runtime and graph whose FP32 differs by more than FP32_LIMIT from what
    its generator is executed by: the origin.
    """
    for graph, worst in worst_by_graph.items():
        if not worst <= FP32_LIMIT:
            what = (
                f"{name} computes graph {graph} differently from {origin}: {worst:.2g}, limit "
                f"{FP32_LIMIT:g}"
            )
            raise GateFailed("E-PARITY", what)


def same_pixels(a: np.ndarray, b: np.ndarray) -> float:
    """Share of pixel values of two uint8 image sets that are within one level."""
    return float((np.abs(a.astype(np.int16) - b) <= 1).mean())


@dataclass(frozen=True)
class Refereed:
    """One INT8 graph: how far the runtime is from the referee on the same file, and the referee
    from FP32; in dB of signal.
    """

    runtime_db: float
    quantization_db: float
    half: bool = False  # whether the file holds float16

    @property
    def agrees(self) -> bool:
        """The runtime adds less error than quantization itself does. NaN disagrees.

        Where quantization costs next to nothing, float rounding is allowed; where it costs nearly
        all, that excuses nobody.
        """
        most, slack = (HALF_DB, FLIPPED_DB) if self.half else (ROUNDING_DB, 0.0)
        return self.runtime_db > min(max(self.quantization_db - slack, WORST_DB), most)

    def to_json(self) -> JsonObject:
        return {"runtime_db": self.runtime_db, "quantization_db": self.quantization_db}


def referee(
    runtime: Execute, reference: Execute, full: Execute, calls: Sequence[Inputs], half: bool = False
) -> Refereed:
    """Signal over error in dB, capped at 200 for equal outputs; the last of three executes the FP32
    graph.
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
    """GateFailed names the runtime and graph that computes something else than its own file
    says.
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
    """GateFailed when two FP32 runtimes give different images from the same seeds."""
    if not share >= PIXEL_LIMIT:
        what = (
            f"{first} and {second} give different FP32 images: only {share:.2%} of pixels "
            "within one level"
        )
        raise GateFailed("E-PARITY", what)
