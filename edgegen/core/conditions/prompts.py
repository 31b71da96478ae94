"""The condition of prompts: texts that were encoded once, and their embeddings.

Seeds of calibration, of the search and of verdicts see three disjoint sets of prompts, just as
their seeds are disjoint, so that a plan is not judged on the prompts it was fitted to. The texts
alone decide which prompt is in which set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from ...errors import escaped
from ..files import JsonObject, to_json
from ..seeds import USES, Use, use_of
from ..spec import Array
from .base import NULL, check_numbers, chosen

MOST = 10_000  # most prompts
CHARACTERS = 2_000  # most characters of a prompt
BYTES = 2 << 20  # most bytes of all prompts together, as UTF-8
SHOWN = 40  # most characters of a prompt that names its images


def check_prompt(text: str) -> None:
    """Raise ValueError for a prompt that is too long or holds control characters."""
    if not isinstance(text, str):
        raise ValueError(f"a prompt is a text, not a {type(text).__name__}")
    if len(text) > CHARACTERS:
        raise ValueError(
            f"a prompt has at most {CHARACTERS} characters, and this one has {len(text)}"
        )
    if text != escaped(text):
        raise ValueError(
            f"the prompt '{shown(text)}' holds control characters, line breaks or marks of "
            "direction"
        )


def shown(text: str) -> str:
    """Return a prompt as one line of at most SHOWN characters, which names its images."""
    plain = escaped(text)
    return plain if len(plain) <= SHOWN else plain[: SHOWN - 1] + "…"


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts with their embeddings.

    texts: distinct prompts. embeddings: float32 or float16 arrays by input, one row per text; under
    null_INPUT a single row, without the batch axis, for the unconditional branch. negative: the
    text of those null rows, None if there are none. divided: whether the prompts are split into
    three sets by the use of seeds.
    """

    texts: tuple[str, ...]
    embeddings: Mapping[str, np.ndarray] = field(repr=False)
    negative: str | None = None
    divided: bool = True
    kind: str = "prompts"

    def __post_init__(self) -> None:
        if self.kind != "prompts" or type(self.divided) is not bool:
            raise ValueError("prompts are of that kind, and divided or not")
        if not 1 <= len(self.texts) <= MOST:
            raise ValueError(f"there are 1 to {MOST} prompts, got {len(self.texts)}")
        for text in (*self.texts, *([] if self.negative is None else [self.negative])):
            check_prompt(text)
        if len(set(self.texts)) != len(self.texts):
            twice = next(text for text in self.texts if self.texts.count(text) > 1)
            raise ValueError(f"the prompt {shown(twice)!r} stands twice")
        if sum(len(text.encode()) for text in self.texts) > BYTES:
            raise ValueError(f"all prompts together have more than {BYTES} bytes")
        self._check_embeddings()

    def _check_embeddings(self) -> None:
        if not (given := [name for name in self.embeddings if not name.startswith(NULL)]):
            raise ValueError("prompts: no input is given anything")
        for name in given:
            rows = self.embeddings[name]
            if rows.ndim < 2 or len(rows) != len(self.texts):
                raise ValueError(
                    f"{name} has the shape {rows.shape}, and there are {len(self.texts)} prompts"
                )
            check_numbers(name, rows, rows[0].size)
        for twin in self.embeddings.keys() - set(given):
            null, of = self.embeddings[twin], self.embeddings.get(twin.removeprefix(NULL))
            if of is None or null.shape != of.shape[1:]:
                raise ValueError(f"{twin} has the shape {null.shape}, and its twin another")
            check_numbers(twin, null, null.size)
        if (self.negative is None) != (len(self.embeddings) == len(given)):
            raise ValueError("a negative prompt has a text and an embedding, or neither")

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self.embeddings)

    @property
    def choices(self) -> int:
        return len(self.texts)

    @property
    def is_shared(self) -> bool:
        """Whether there are too few prompts for three sets, so that every use sees all of them."""
        return len(self.texts) < len(USES)

    @cached_property
    def _sets(self) -> Mapping[Use, tuple[int, ...]]:
        """The numbers of the prompts by use, in three sets of nearly equal size."""
        word = hashlib.sha256(to_json(self.texts)).digest()
        drawn = sorted(
            range(len(self.texts)),
            key=lambda k: hashlib.sha256(word + k.to_bytes(4, "little")).digest(),
        )
        return {use: tuple(sorted(drawn[k :: len(USES)])) for k, use in enumerate(USES)}

    def of_use(self, use: Use | None) -> Sequence[int]:
        """Return the numbers of the prompts that seeds of that use cycle through."""
        if use is None or not self.divided or self.is_shared:
            return range(len(self.texts))
        return self._sets[use]

    def of(self, seeds: Sequence[int], choice: int | None = None) -> dict[str, Array]:
        chosen(choice, len(self.texts), "the number of a prompt")
        picks = [self._pick(seed) if choice is None else choice for seed in seeds]
        return {
            name: (
                np.repeat(values[None], len(picks), axis=0)
                if name.startswith(NULL)
                else values[picks]
            ).astype(np.float32, copy=False)
            for name, values in self.embeddings.items()
        }

    def _pick(self, seed: int) -> int:
        own = self.of_use(use_of(seed))
        return own[seed % len(own)]

    def names(self, use: Use | None) -> tuple[str, ...]:
        return tuple(shown(self.texts[k]) for k in self.of_use(use))

    def undivided(self) -> Prompts:
        return replace(self, divided=False)

    def only(self, number: int) -> Prompts:
        """Return a condition with only the prompt of that number."""
        kept = {
            name: values if name.startswith(NULL) else values[number : number + 1]
            for name, values in self.embeddings.items()
        }
        return replace(self, texts=(self.texts[number],), embeddings=kept)

    def to_json(self) -> JsonObject:
        return {
            "kind": self.kind,
            "inputs": list(self.embeddings),
            "texts": list(self.texts),
            "negative": self.negative,
            "divided": self.divided,
        }

    def arrays(self) -> Mapping[str, np.ndarray]:
        return self.embeddings

    @classmethod
    def parsed(cls, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Prompts:
        """Make prompts from a manifest. ValueError, KeyError or TypeError for invalid data."""
        fields = dict(data)
        embeddings = {name: arrays[name] for name in fields.pop("inputs")}
        return cls(texts=tuple(fields.pop("texts")), embeddings=embeddings, **fields)
