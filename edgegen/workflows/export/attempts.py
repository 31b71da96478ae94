"""Number the attempts of a generator at passing a verdict. Another plan or option is the next
attempt, on other seeds and with a smaller share of the error; the same export again is the same
attempt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.answer_cache import Notes, folder
from ...core.bundle import MANIFEST
from ...core.files import JsonObject, read_json, to_json
from ...errors import EdgegenError
from ...evidence.terms import Terms, Trial, trial

if TYPE_CHECKING:
    from ...core.bundle import Bundle
    from ...evidence.reference import Features


class Attempts:
    """Keep the ledger of one generator: what was judged on each runtime, in order.

    It is kept in the cache and in the bundle that is replaced, so that deleting one does not erase
    it.
    """

    def __init__(
        self, about: Mapping[str, Any], out: Path, judges: Sequence[Features] = ()
    ) -> None:
        """Read the ledger. `about` is the manifest's `source`, `out` is where an earlier bundle may
        lie, and `judges` are networks that judge without a reference that names them.
        """
        self.weights, self._judges = weights_of(about), judges
        self._notes = Notes(folder("attempts") / f"{self.weights}.jsonl")
        self._earlier = _earlier(out, self.weights)
        self._made: dict[str, list[str]] = {}

    def trial(self, bundle: Bundle, runtime: str, terms: Terms) -> Trial:
        """Return the seeds and the error level for what the bundle holds for this runtime."""
        judged = what_is_judged(bundle, runtime, terms, self._judges)
        made = self._made.setdefault(runtime, self._known(runtime))
        if judged not in made:
            made.append(judged)
            for number, one in enumerate(made):
                self._notes.recall(f"{runtime} {number}", partial(str, one))
        return trial(self.weights, made.index(judged))

    def _known(self, runtime: str) -> list[str]:
        """Return what the bundle and the cache remember, the oldest first."""
        made: list[str] = []
        while self._notes.knows(question := f"{runtime} {len(made)}"):
            made.append(self._notes.recall(question, str))
        return list(dict.fromkeys([*self._earlier.get(runtime, ()), *made]))

    def to_json(self) -> JsonObject:
        """Return the hashes of what was judged, by runtime, for the manifest."""
        return {runtime: list(made) for runtime, made in self._made.items()}


def weights_of(about: Mapping[str, Any]) -> str:
    """Return a sha256 that identifies the full-precision weights, from the hashes in the manifest's
    `source`.
    """
    hashes = {name: about[name] for name in sorted(about) if name.endswith("sha256")}
    return hashlib.sha256(to_json(hashes)).hexdigest()


def what_is_judged(
    bundle: Bundle, runtime: str, terms: Terms, judges: Sequence[Features] = ()
) -> str:
    """Return the sha256 of what a verdict depends on: the INT8 files, the loop around them, the
    terms and the judges.
    """
    manifest = bundle.manifest
    built, stored = manifest.runtimes[runtime], manifest.files.get("evidence/reference.safetensors")
    asked: JsonObject = {
        "files": {graph: manifest.files[name].sha256 for graph, name in built.onnx.items()},
        "until": built.until,
        "sampler": manifest.sampler,
        "terms": terms.to_json(),
        "reference": stored.sha256 if stored else None,
    }
    if judges:
        asked["judges"] = [[one.name, one.sha256, one.size] for one in judges]
    return hashlib.sha256(to_json(asked)).hexdigest()


def _earlier(out: Path, weights: str) -> Mapping[str, list[str]]:
    """Return what the bundle at `out` remembers; nothing if there is none or it has other
    weights.
    """
    try:
        manifest = read_json(out / MANIFEST)
        if weights_of(manifest["source"]) != weights:
            return {}
        return {
            str(runtime): [str(one) for one in made]
            for runtime, made in manifest["evidence"]["attempts"].items()
        }
    except (EdgegenError, OSError, AttributeError, KeyError, TypeError):
        return {}  # an unreadable ledger counts as empty; the cache still remembers
