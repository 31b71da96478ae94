"""A precision plan: calibrate writes it, export reads it; the same inputs give the same bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from ..errors import InputError
from .files import JsonObject, is_version, parse_json, to_json
from .layers import CONVOLUTIONS, LINEAR
from .reader import read_bytes

Precision = Literal["int8", "fp32"]
ROUNDED = re.compile(r"\.rounded[0-9]$")
PLAN_BYTES = 16 << 20
FLOAT32 = 3.4028234663852886e38  # largest finite value


@dataclass(frozen=True)
class Range:
    """The smallest and largest value observed of one tensor.

    It always contains 0, because padding and ReLU produce it. ValueError otherwise.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not -FLOAT32 <= self.low <= 0 <= self.high <= FLOAT32:
            raise ValueError(
                f"a range must be finite in float32 and hold 0, got [{self.low}, {self.high}]"
            )


@dataclass(frozen=True)
class Layer:
    """The decision on one convolution or matrix product: its precision and the reasons for it."""

    graph: str
    node: str
    precision: Precision
    why: str
    # mean squared distance by which the images' features move if this layer alone is int8; None:
    # not measured
    damage: float | None
    saved: float | None  # what int8 saves, in the plan's unit; None: not measured
    multiplications: int  # per image


@dataclass(frozen=True)
class Plan:
    """A precision plan: which layers are int8, and the ranges of their tensors.

    rules: (glob over "graph/node", precision), of which the first match decides; ranges: observed
    range by graph and tensor. layers: the decisions of a search, in the order of the graphs; unit:
    the unit of what they save. model: sha256 of the graphs from which the ranges come ("" if not
    known). last: how many of the sampler's last steps run in FP32, whatever the rules say. linear:
    globs over "graph/node" for the products with a constant matrix that the rules cover; they
    cover all convolutions, and small products are not worth it.
    """

    rules: tuple[tuple[str, Precision], ...]
    ranges: Mapping[str, Mapping[str, Range]]
    layers: tuple[Layer, ...] = ()
    unit: str = ""
    model: str = ""
    last: int = 0
    linear: tuple[str, ...] = ()

    def speaks_of(self, graph: str, node: str, operator: str) -> bool:
        """Return whether the rules decide on a node of that operator with a constant weight."""
        if operator in LINEAR:
            return any(fnmatchcase(f"{graph}/{node}", pattern) for pattern in self.linear)
        return operator in CONVOLUTIONS

    def precision(self, graph: str, node: str) -> Precision:
        """Return the precision of a node by the first rule that matches, or fp32 without one."""
        return next(
            (p for pattern, p in self.rules if fnmatchcase(f"{graph}/{node}", pattern)), "fp32"
        )

    def to_bytes(self) -> bytes:
        return to_json(
            {
                "schema_version": 1,
                "rules": [list(rule) for rule in self.rules],
                "ranges": {
                    g: {t: [r.low, r.high] for t, r in tensors.items()}
                    for g, tensors in self.ranges.items()
                },
                "layers": [asdict(layer) for layer in self.layers],
                "unit": self.unit,
                "model": self.model,
                "last": self.last,
                # Without any, the file stays as it was before this entry existed.
                **({"linear": list(self.linear)} if self.linear else {}),
            }
        )

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a plan from a file. InputError says what is wrong with it."""
        return cls.parsed(read_bytes(path, PLAN_BYTES, "E-JSON"), path)

    @classmethod
    def parsed(cls, document: bytes, path: Path) -> Plan:
        """Parse a plan from bytes that were read from `path`, which messages name."""
        try:
            data = parse_json(document)
        except ValueError as error:
            raise InputError("E-JSON", f"not usable JSON: {error}", path=path) from error
        try:
            if not is_version(data["schema_version"], 1):
                raise ValueError(f"schema {data['schema_version']} is not known to this version")
            rules = tuple((str(pattern), _precision(p)) for pattern, p in data["rules"])
            ranges = {
                g: {t: Range(*map(float, r)) for t, r in tensors.items()}
                for g, tensors in data["ranges"].items()
            }
            layers = tuple(_layer(layer) for layer in data.get("layers", ()))
            unit, model, last = (
                str(data.get("unit", "")),
                str(data.get("model", "")),
                data.get("last", 0),
            )
            if type(last) is not int or last < 0:
                raise ValueError(f"last is a number of steps, got {last!r}")
            linear = data.get("linear", [])
            if not isinstance(linear, list) or not all(isinstance(one, str) for one in linear):
                raise ValueError(f"linear is a list of names, got {linear!r:.80}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError("E-PLAN", f"not a usable plan: {error}", path=path) from error
        return cls(rules, ranges, layers, unit, model, last, tuple(linear))


def _layer(data: JsonObject) -> Layer:
    damage, saved = (None if data[k] is None else float(data[k]) for k in ("damage", "saved"))
    return Layer(
        str(data["graph"]),
        str(data["node"]),
        _precision(data["precision"]),
        str(data["why"]),
        damage,
        saved,
        int(data["multiplications"]),
    )


def _precision(word: str) -> Precision:
    if word == "int8":
        return "int8"
    if word == "fp32":
        return "fp32"
    raise ValueError(f"unknown precision {word!r}; known: int8, fp32")


def rounded_name(weight: str, bits: int) -> str:
    """Return the name of the constant that replaces `weight` in an int8 node.

    Its values are whole multiples of the scale for `bits` bits.
    """
    return f"{weight}.rounded{bits}"


def is_rounded(name: str) -> bool:
    """Return whether a constant's name is one that `rounded_name` gives."""
    return ROUNDED.search(name) is not None
