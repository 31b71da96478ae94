"""Build TensorRT engines in a child process: a crash of native code is an answer, and the same
graph gives the same bytes.

TensorRT-RTX numbers its internal tensors in the order of their addresses, so an engine repeats only
if the memory of the building process does: no address randomization (if the system allows that), no
random hashes, one engine for each process.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from edgegen.core.files import write_bytes
from edgegen.core.temporary import scratch
from edgegen.core.weights import SUFFIX

BATCHES = (1, 64, 256)  # smallest, tuned and largest batch of the optimization profile
VARYING = "batch"  # the only axis that may vary; the optimization profile covers it
FAILURE = "failure.json"
TIMING = "timing.cache"
LIMIT = 600  # seconds for all engines of one graph
NO_RANDOMIZE = 0x0040000  # ADDR_NO_RANDOMIZE of personality(2): it takes effect at the next exec
HASHES = "PYTHONHASHSEED"  # set once the child has restarted itself
Failure = tuple[str, str]  # code and sentence

# The child looks for modules in the same places as this process, and restarts itself once its
# addresses are fixed.
CHILD = """import json, sys
sys.path[:] = json.load(open("path.json"))
from edgegen.export.engine import child
child(*sys.argv[1:])"""
# variables that the child keeps; others would change its memory
KEPT = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "PATH", "TMPDIR")


def engines(
    module: str,
    onnx: bytes,
    capabilities: Sequence[str],
    batches: Sequence[int] = BATCHES,
    timing: Path | None = None,
    beside: Callable[[Path], object] | None = None,
) -> list[bytes] | Failure:
    """Build an engine for each compute capability ("" is the GPU at hand) with package `module`;
    return them, or why there are none.

    `timing` is a file with the kernel times of earlier builds on this GPU; it is read and updated.
    `beside` puts the weights file that the ONNX file points to into a given folder.
    """
    with scratch() as folder:
        if beside is not None:
            beside(folder)
        (folder / "path.json").write_text(
            json.dumps([os.path.abspath(p) for p in sys.path]), "utf-8"
        )
        if timing is not None:
            (folder / TIMING).write_bytes(timing.read_bytes() if timing.is_file() else b"")
        command = [
            sys.executable,
            "-P",
            "-c",
            CHILD,
            module,
            ",".join(capabilities),
            json.dumps(list(batches)),
        ]
        env = {k: os.environ[k] for k in KEPT if k in os.environ}
        try:
            done = subprocess.run(
                command,
                input=onnx,
                capture_output=True,
                timeout=LIMIT,
                check=False,
                env=env,
                cwd=folder,
            )
        except subprocess.TimeoutExpired:
            return "E-TIMEOUT", f"TensorRT was not ready after {LIMIT} s"
        if (failed := folder / FAILURE).is_file():
            code, sentence = json.loads(failed.read_text("utf-8"))
            return code, sentence
        built = [folder / f"{k}.engine" for k in range(len(capabilities))]
        if done.returncode == 0 and all(path.is_file() for path in built):
            if timing is not None:
                write_bytes(timing, (folder / TIMING).read_bytes())
            return [path.read_bytes() for path in built]
        last = done.stderr.decode(errors="replace").strip().splitlines() or ["no output"]
        return (
            "E-TRT-BUILD",
            f"the process that builds engines ended with {done.returncode}: {last[-1]}",
        )


def child(module: str, capabilities: str, batches: str) -> None:
    """Build in the child process: read the ONNX file from stdin and write 0.engine, 1.engine, ...
    or failure.json into the working folder.
    """
    if HASHES not in os.environ:
        # a container may forbid this: engines then differ only in internal names
        ctypes.CDLL(None).personality(NO_RANDOMIZE)
        os.execve(sys.executable, sys.orig_argv, {**os.environ, HASHES: "0"})
    # one core, because threads would compete for places in memory
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    onnx = sys.stdin.buffer.read()
    trt = import_module(module)
    for number, capability in enumerate(capabilities.split(",")):
        if (pid := os.fork()) == 0:
            fresh = threading.Thread(
                target=_one, args=(trt, onnx, capability, number, json.loads(batches))
            )
            # a thread allocates from a heap of its own, which nothing before it has shaped
            fresh.start()
            fresh.join()
            os._exit(0)
        if status := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            _fail(
                "E-TRT-BUILD",
                f"TensorRT crashed with {signal.Signals(-status).name} for {_gpu(capability)}",
            )
        if Path(FAILURE).exists():
            return


def _one(trt: ModuleType, onnx: bytes, capability: str, number: int, batches: list[int]) -> None:
    try:
        engine = build(trt, onnx, capability, batches)
        if isinstance(engine, bytes):
            Path(f"{number}.engine").write_bytes(engine)
        else:
            _fail(*engine)
    # the parent must learn of any error, because this process ends without a traceback
    except BaseException as error:
        _fail(
            "E-TRT-BUILD",
            f"TensorRT failed for {_gpu(capability)}: {type(error).__name__}: {error}",
        )


def _fail(code: str, sentence: str) -> None:
    Path(FAILURE).write_text(json.dumps([code, sentence]), "utf-8")


def _gpu(capability: str) -> str:
    return capability or "this GPU"


def build(trt: ModuleType, onnx: bytes, capability: str, batches: Sequence[int]) -> bytes | Failure:
    """Build one engine in this process; return it, or why it cannot be built."""
    logger = logger_of(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    # TensorRT looks for weights beside the path that it is given
    weights = next(Path().glob(f"*{SUFFIX}"), None)
    path = () if weights is None else (str(weights.with_suffix(".onnx")),)
    if not parser.parse(onnx, *path):
        error = parser.get_error(0)
        return (
            "E-TRT-PARSE",
            f"TensorRT refuses node {error.node_name()} ({error.node_operator()}): "
            f"{reason(error.desc())}",
        )
    config = builder.create_builder_config()
    # keeps float32 in the file from being rounded to 10 bits
    config.clear_flag(trt.BuilderFlag.TF32)
    if capability:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    profile = builder.create_optimization_profile()
    for tensor in (network.get_input(index) for index in range(network.num_inputs)):
        for axis, size in enumerate(tensor.shape):
            if size < 0 and (name := tensor.get_dimension_name(axis)) != VARYING:
                return (
                    "E-TRT-AXIS",
                    f"axis {axis} of input {tensor.name} varies as {name!r}; only {VARYING!r} may "
                    "vary",
                )
        profile.set_shape(
            tensor.name, *(tuple(b if d < 0 else d for d in tensor.shape) for b in batches)
        )
    config.add_optimization_profile(profile)
    if Path(TIMING).is_file():
        config.set_timing_cache(
            config.create_timing_cache(Path(TIMING).read_bytes()), ignore_mismatch=True
        )
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        last = logger.errors[-1] if logger.errors else "no reason given"
        layers = (network.get_layer(index).name for index in range(network.num_layers))
        return (
            "E-TRT-BUILD",
            f"TensorRT cannot build {blamed(last, layers)}for {_gpu(capability)}: {reason(last)}",
        )
    if Path(TIMING).is_file():
        Path(TIMING).write_bytes(config.get_timing_cache().serialize())
    return bytes(engine)


def reason(message: str) -> str:
    """Return the sentence inside a TensorRT message, without its files, functions and
    assertions.
    """
    line = next(
        (m for m in message.splitlines() if "Error Code" in m or "Assertion failed" in m),
        message.partition("\n")[0],
    )
    line = re.sub(r"[.:]? In \w+ at .*", "", line)
    line = re.sub(r"^.*Assertion failed: [^:]*: ", "", line)
    sentence = re.sub(r"^.*?Error Code \d+: [\w ]*\((?:\[[^\]]*\] )?", "", line).strip()
    return {"false": "it has no such operator", "": "no reason given"}.get(sentence, sentence)


def blamed(message: str, layers: Iterator[str]) -> str:
    """Return "node NAME " for the longest layer name in a message (layers have the names of ONNX
    nodes), else "it ".
    """
    names = [
        name
        for name in layers
        if name and re.search(rf"(?<![\w.]){re.escape(name)}(?:_U\d+)?(?![\w.])", message)
    ]
    return f"node {max(names, key=len)} " if names else "it "


def logger_of(trt: Any) -> Any:
    """Return a logger for that package which keeps errors for our own sentence and prints
    nothing.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: object, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

    return Logger()
