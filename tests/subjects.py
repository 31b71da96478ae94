"""Tiny generators' graphs with every convolution in int8, and their Q/DQ files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from adapters import master

from edgegen.calibrate.choose import plan as choose
from edgegen.calibrate.equalize import ChannelObserver, equalized
from edgegen.calibrate.observe import Observer
from edgegen.core.plan import Plan
from edgegen.core.runtime import Pipeline
from edgegen.core.samplers import asked
from edgegen.export import onnx as onnx_files
from edgegen.export import qdq
from edgegen.export.ort import OnnxRuntime
from edgegen.export.rounding import rounding
from edgegen.families import family
from edgegen.training.adapt import site
from edgegen.training.adapt.student import Subject


def plan_of(generator: Any, models: Mapping[str, Any]) -> tuple[dict[str, Any], Plan]:
    """Even graphs, and a plan that rounds every convolution."""
    channels = {k: ChannelObserver(m, 1) for k, m in models.items()}
    Pipeline(generator.latent, generator.sampler, channels)(range(32))
    even = {k: equalized(m, channels[k].largest) for k, m in models.items()}
    seen = {
        k: Observer(m, qdq.candidates(m), asked(generator.sampler, k), 1) for k, m in even.items()
    }
    Pipeline(generator.latent, generator.sampler, seen)(range(32))
    return even, Plan((("*", "int8"),), choose(even, {k: o.stats for k, o in seen.items()}).ranges)


@cache
def subjects(name: str) -> tuple[dict[str, Subject], dict[str, Any]]:
    """A tiny generator's graphs, and their Q/DQ files."""
    found = family(name)
    generator = site.plain(found, found.recipes["tiny"]().config, master(name))
    traced = {k: onnx_files.traced(g, k) for k, g in generator.graphs().items()}
    even, plan = plan_of(generator, {k: m for k, (m, _) in traced.items()})
    files = {k: qdq.quantize(m, k, plan, OnnxRuntime.dialect) for k, m in even.items()}
    return {
        k: Subject(g, traced[k][1], rounding(even[k], files[k]))
        for k, g in generator.graphs().items()
    }, files
