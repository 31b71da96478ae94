"""Every parser of ours that reads what others wrote, given damage at random: an error of ours or an
answer, and nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attacks.attack import TOY
from edgegen.core.declared import declared
from edgegen.core.files import parse_json, to_json
from edgegen.core.keys import SiteKeys
from edgegen.core.manifest import Manifest
from edgegen.core.plan import Plan
from edgegen.core.rehearsal import bounded_sampler, bounded_start
from edgegen.core.samplers import sampler_from_json
from edgegen.core.signature import check
from edgegen.errors import EdgegenError
from edgegen.evidence import golden_images, reference
from edgegen.export import ir_structure, onnx_structure
from edgegen.machine.probe import TINY

pytest.importorskip("cryptography", reason="signatures need the extra sign")
HERE = Path("file")
NOBODY = SiteKeys({})
IR = b"""<?xml version="1.0"?><net name="g" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1">
<data shape="1,1,2,2" element_type="f32"/></layer>
<layer id="1" name="c" type="Const" version="opset1">
<data element_type="f32" shape="2" offset="0" size="8"/></layer></layers></net>"""


def read_manifest(data: bytes) -> None:
    manifest = Manifest.model_validate(parse_json(data))
    to_json(manifest.model_dump())
    bounded_start(manifest.start.shape, manifest.start.classes)
    bounded_sampler(manifest.sampler)
    sampler_from_json(manifest.sampler)


def read_sampler(data: bytes) -> None:
    sampler = parse_json(data)
    if isinstance(sampler, dict):
        bounded_sampler(sampler)
    sampler_from_json(sampler)


PARSERS: dict[str, tuple[bytes, Callable[[bytes], Any]]] = {
    "what ONNX declares": ((TOY / "graphs/theta.onnx").read_bytes()[-900:], declared),
    "a tiny ONNX": (TINY, declared),
    "the structure of ONNX": (
        (TOY / "int8/onnxruntime/phi.onnx").read_bytes()[:6000],
        lambda data: onnx_structure.check(data, HERE),
    ),
    "the structure of a tiny ONNX": (TINY, lambda data: onnx_structure.check(data, HERE)),
    "the structure of IR": (IR, lambda data: ir_structure.check(data, bytes(8), HERE)),
    "a manifest": ((TOY / "manifest.json").read_bytes(), read_manifest),
    "a sampler": (
        b'{"kind": "cascade", "timesteps": [9, 4], "signal": [0.1, 0.5], "window": [1, 9]}',
        read_sampler,
    ),
    "a signature": (
        (TOY / "model.sig").read_bytes(),
        lambda data: check(data, HERE, {}, NOBODY),
    ),
    "a plan": (
        (TOY / "int8/onnxruntime/plan.json").read_bytes(),
        lambda data: Plan.parsed(data, HERE),
    ),
    "kept images": (
        (TOY / "evidence/images.safetensors").read_bytes()[:4000],
        lambda data: golden_images.parsed(data, HERE),
    ),
    "statistics": (
        (TOY / "evidence/reference.safetensors").read_bytes()[:4000],
        lambda data: reference.parsed(data, HERE),
    ),
}
Damage = tuple[int, int, bytes]  # where, how many bytes go, what comes
DAMAGES = st.lists(
    st.tuples(st.integers(0, 1 << 20), st.integers(0, 8), st.binary(max_size=8)),
    min_size=1,
    max_size=4,
)


def damaged(data: bytes, damages: list[Damage]) -> bytes:
    for place, gone, new in damages:
        place %= len(data) + 1
        data = data[:place] + new + data[place + gone :]
    return data


FEW = settings(max_examples=200, suppress_health_check=list(HealthCheck))
TIMES = 10_000


# these are parts of a reader that makes a sentence of their ValueError
PARTS = ("what ONNX declares", "a tiny ONNX", "a manifest", "a sampler")


def an_error_of_ours(parser: str, damages: list[Damage]) -> None:
    whole, parse = PARSERS[parser]
    expected = (EdgegenError, ValueError) if parser in PARTS else (EdgegenError,)
    with contextlib.suppress(*expected):
        parse(damaged(whole, damages))


@pytest.mark.parametrize("parser", PARSERS)
@FEW
@given(damages=DAMAGES)
def test_damage_is_an_error_of_ours(parser: str, damages: list[Damage]) -> None:
    an_error_of_ours(parser, damages)


@pytest.mark.reliability
@pytest.mark.parametrize("parser", PARSERS)
def test_damage_ten_thousand_times(
    parser: str, record_property: Callable[[str, object], None]
) -> None:
    tried: list[int] = []
    record_property("reliability", ("parser", parser, TIMES, 1))  # where it ends before the last

    @settings(max_examples=TIMES, suppress_health_check=list(HealthCheck))
    @given(damages=DAMAGES)
    def each(damages: list[Damage]) -> None:
        tried.append(1)
        an_error_of_ours(parser, damages)

    each()
    record_property("reliability", ("parser", parser, len(tried) - TIMES, -1))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=4,
)
NAMES = ("kind", "timesteps", "signal", "levels", "window", "gates", "eta", "graphs", "noise")
KINDS = st.sampled_from(["cascade", "bridge", "consistency", "latent-ddim", "single"])


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(NAMES), JSON, max_size=3), KINDS)
def test_samplers_of_any_values_are_an_error_of_ours(values: dict[str, Any], kind: str) -> None:
    with contextlib.suppress(EdgegenError, ValueError):
        bounded_sampler({**values, "kind": kind})
        sampler_from_json({**values, "kind": kind})
