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
    """Smallest and largest value seen of one tensor; 0 is always inside, since padding and ReLU
    write it.
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
    """A convolution or matrix product that was decided on: its precision, why, and what that was
    decided from.
    """

    graph: str
    node: str
    precision: Precision
    why: str
    # mean squared distance that the images' features move with this layer alone in int8
    damage: float | None
    saved: float | None  # by int8, in the unit that the plan names; None as above: not measured
    multiplications: int  # an image


@dataclass(frozen=True)
class Plan:
    """rules: (glob over "graph/node", precision), the first match decides; ranges: graph -> tensor
    -> observed range.

    layers: what a search found, in the order of the graphs; unit: of what they save. model: sha256
    of the graphs whose ranges these are ("" if not known). last: how many of the sampler's last
    steps run in FP32, whatever the rules say. linear: globs over the same, of the products by a
    constant matrix that the rules speak of beside all convolutions; small ones do not pay.
    """

    rules: tuple[tuple[str, Precision], ...]
    ranges: Mapping[str, Mapping[str, Range]]
    layers: tuple[Layer, ...] = ()
    unit: str = ""
    model: str = ""
    last: int = 0
    linear: tuple[str, ...] = ()

    def speaks_of(self, graph: str, node: str, operator: str) -> bool:
        """Whether the rules decide on the node, if its weight is constant."""
        if operator in LINEAR:
            return any(fnmatchcase(f"{graph}/{node}", pattern) for pattern in self.linear)
        return operator in CONVOLUTIONS

    def precision(self, graph: str, node: str) -> Precision:
        """fp32 where no rule matches."""
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
                # a plan that has none is written as it was before there were any
                **({"linear": list(self.linear)} if self.linear else {}),
            }
        )

    @classmethod
    def read(cls, path: Path) -> Plan:
        """InputError names what is wrong with the file."""
        return cls.parsed(read_bytes(path, PLAN_BYTES, "E-JSON"), path)

    @classmethod
    def parsed(cls, document: bytes, path: Path) -> Plan:
        """The same of bytes, which were read from `path`."""
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
    """The constant that an int8 node of so many weight bits takes in place of `weight`: whole
    multiples of its scale.
    """
    return f"{weight}.rounded{bits}"


def is_rounded(name: str) -> bool:
    """Whether a constant is some weight's rounded form."""
    return ROUNDED.search(name) is not None
