"""Execute ONNX models of a generator's graphs as its pipeline, on a runtime of this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...core.runtime import Pipeline, Runtime
from ...core.temporary import scratch
from ...export import STAND_IN, runtime
from ...export import onnx as onnx_files

if TYPE_CHECKING:
    from onnx import ModelProto

    from ...core.graph import Exportable

BATCH = 16  # images in a batch: so few that several cores share a few dozen images


def hosted(
    models: Mapping[str, ModelProto],
    generator: Exportable,
    threads: int,
    host: Runtime | None = None,
    batch: int = BATCH,
) -> Pipeline:
    """Return the pipeline, executed by the stand-in unless `host` is given.

    `threads` batches run at once, each on one thread.
    """
    with scratch() as folder:  # a session has read its file when load returns, so the folder may go
        files = {
            name: onnx_files.write(model, folder / f"{name}.onnx") for name, model in models.items()
        }
        call = {name: (host or runtime(STAND_IN)).load(path, 1) for name, path in files.items()}
    return Pipeline(generator.latent, generator.sampler, call, batch, workers=threads)
