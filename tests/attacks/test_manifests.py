"""Manifests with every hash right that do not fit their files, their graphs or any machine: each is
refused by the sentence that says so, before a runtime sees a byte.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attacks.attack import TOY, Change, attacked, copy, generated, listed, put, removed, resealed
from edgegen.core.bundle import MANIFEST, digest
from edgegen.core.files import read_json, to_json
from edgegen.export import runtime

Captured = pytest.CaptureFixture[str]
MANIFEST_OF_TOY: dict[str, Any] = read_json(TOY / MANIFEST)
OTHERS: dict[str, Any] = {
    "null": None,
    "number": 7,
    "text": "seven",
    "list": [],
    "object": {},
    "true": True,
}


def paths(value: Any, at: tuple[str, ...] = (), depth: int = 3) -> list[tuple[str, ...]]:
    """Where objects of a document have values, to a depth."""
    if not isinstance(value, dict) or not depth:
        return []
    found = []
    for key, inner in value.items():
        found += [(*at, key), *paths(inner, (*at, key), depth - 1)]
    return found


FREE = ("source", "calibration", "evidence")  # whose values are for people and other verbs
FIELDS = [
    p
    for p in paths(MANIFEST_OF_TOY)
    if p[0] not in FREE and p not in (("sha256",),) and not (p[0] == "files" and len(p) == 3)
] + [("files", "README.md", key) for key in ("bytes", "sha256")]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One copy, whose manifest is put back by each test."""
    return copy(tmp_path_factory.mktemp("manifests"))


@pytest.mark.parametrize("path", FIELDS, ids=".".join)
def test_a_field_that_is_missing_or_of_another_kind(
    path: tuple[str, ...], shared: Path, capfd: Captured
) -> None:
    """Whatever is refused is refused by its name; what may be left out or is a word is no attack,
    and makes the images that it made.
    """
    changes = [removed(path), *(put(path, value) for value in OTHERS.values())]
    makes = ["generate", str(shared), "-o", str(shared.parent / "o.png"), "-n", "1"]
    read = ["verify", str(shared), "--files-only"]
    for change in changes:
        shutil.copyfile(TOY / MANIFEST, shared / MANIFEST)
        resealed(shared, change)
        attacked(makes if path[0] in ("start", "sampler", "graphs") else read, capfd, (0, 2, 4, 6))
        (shared.parent / "o.png").unlink(missing_ok=True)


START: dict[str, Change] = {
    "no axes": put(("start", "shape"), []),
    "one axis": put(("start", "shape"), [768]),
    "two axes": put(("start", "shape"), [3, 256]),
    "four axes": put(("start", "shape"), [1, 3, 16, 16]),
    "other channels": put(("start", "shape"), [4, 16, 16]),
    "other height": put(("start", "shape"), [3, 32, 16]),
    "other width": put(("start", "shape"), [3, 16, 8]),
    "an empty axis": put(("start", "shape"), [3, 0, 16]),
    "a negative axis": put(("start", "shape"), [3, -16, -16]),
    "a terabyte of noise": put(("start", "shape"), [3, 1 << 19, 1 << 19]),
    "more than a number holds": put(("start", "shape"), [1 << 62, 1 << 62]),
    "a thousand digits": put(("start", "shape"), [3, 10**1000]),
    "ten thousand axes": put(("start", "shape"), [1] * 10_000),
    "a fraction": put(("start", "shape"), [3, 16.0, 16]),
    "a truth": put(("start", "shape"), [3, True, 16]),
    "one class": put(("start", "classes"), 1),
    "ten classes": put(("start", "classes"), 10),
    "a billion classes": put(("start", "classes"), 10**9),
    "fewer than no classes": put(("start", "classes"), -1),
    "half a class": put(("start", "classes"), 0.5),
}
STEPS = MANIFEST_OF_TOY["sampler"]
SAMPLER: dict[str, Change] = {
    "no such kind": put(("sampler", "kind"), "os.system"),
    "a list for a kind": put(("sampler", "kind"), ["cascade"]),
    "an object for a kind": put(("sampler", "kind"), {}),
    "single": put(("sampler",), {"kind": "single"}),
    "single, of graphs that are not": put(("sampler",), {"kind": "single", "graphs": ["g"]}),
    "single, of its own graphs": put(("sampler",), {"kind": "single", "graphs": ["theta", "phi"]}),
    "single, of one graph 100,000 times": put(
        ("sampler",), {"kind": "single", "graphs": ["theta"] * 100_000}
    ),
    "bridge": put(("sampler",), {"kind": "bridge", "levels": [1.0, 0.5]}),
    "bridge without levels": put(("sampler",), {"kind": "bridge", "levels": []}),
    "consistency": put(
        ("sampler",), {"kind": "consistency", "timesteps": [9, 4], "signal": [0.1, 0.5]}
    ),
    "latent-ddim": put(
        ("sampler",), {"kind": "latent-ddim", "timesteps": [9, 4], "signal": [0.1, 0.5]}
    ),
    "200,000 timesteps": lambda m: m["sampler"].update(
        timesteps=list(range(200_000, 0, -1)), signal=[0.5]
    ),
    "1001 timesteps": lambda m: m["sampler"].update(
        timesteps=list(range(1001, 0, -1)), signal=[k / 1002 for k in range(1, 1002)]
    ),
    "no timesteps": lambda m: m["sampler"].update(timesteps=[], signal=[]),
    "timesteps that rise": lambda m: m["sampler"].update(timesteps=STEPS["timesteps"][::-1]),
    "timesteps that are words": lambda m: m["sampler"].update(
        timesteps=["a"] * len(STEPS["timesteps"])
    ),
    "timesteps that are lists": lambda m: m["sampler"].update(timesteps=[[1]]),
    "a timestep of a thousand digits": lambda m: m["sampler"].update(
        timesteps=[10**1000], signal=[0.5]
    ),
    "a timestep beyond float32": lambda m: m["sampler"].update(timesteps=[1e300], signal=[0.5]),
    "fewer levels than timesteps": lambda m: m["sampler"].update(signal=STEPS["signal"][:-1]),
    "a level of one": lambda m: m["sampler"].update(timesteps=[5], signal=[1.0]),
    "a level below nothing": lambda m: m["sampler"].update(timesteps=[5], signal=[-0.5]),
    "another prediction": put(("sampler", "prediction"), "x"),
    "another path": put(("sampler", "path"), "none"),
    "fixed gates that are missing": put(("sampler", "path"), "fixed"),
    "gates above one": put(("sampler", "gates"), [2.0]),
    "eta above one": put(("sampler", "eta"), 7.0),
    "eta in words": put(("sampler", "eta"), "much"),
    "a solver that is none": put(("sampler", "solver"), "euler"),
    "a solver that is a list": put(("sampler", "solver"), ["dpm++2m"]),
    "a solver that draws no noise, and noise": lambda m: m["sampler"].update(
        solver="dpm++2m", eta=0.5
    ),
    "a window of three": put(("sampler", "window"), [1, 2, 3]),
    "a window of words": put(("sampler", "window"), ["a", "b"]),
    "a field too many": put(("sampler", "shell"), "sh"),
    "a document within": put(("sampler", "gates"), {"a": {"b": []}}),
}
GRAPHS: dict[str, Change] = {
    "none": put(("graphs",), {}),
    "none anywhere": lambda m: (
        m.update(graphs={}),
        m["runtimes"]["onnxruntime"].update(load={}, onnx={}, until={}),
    ),
    "one is missing": removed(("graphs", "phi")),
    "one has another name": lambda m: m["graphs"].update(psi=m["graphs"].pop("phi")),
    "all have other names": lambda m: (
        [
            names.update({"a": names.pop("theta"), "b": names.pop("phi")})
            for names in (
                m["graphs"],
                m["runtimes"]["onnxruntime"]["load"],
                m["runtimes"]["onnxruntime"]["onnx"],
            )
        ]
        and m["runtimes"]["onnxruntime"].update(until={})
    ),
    "they are exchanged": lambda m: m["graphs"].update(
        theta=m["graphs"]["phi"], phi=m["graphs"]["theta"]
    ),
    "one is a picture": put(("graphs", "phi"), "evidence/same-seeds.png"),
    "one is the README": put(("graphs", "theta"), "README.md"),
    "what is loaded is a picture": put(
        ("runtimes", "onnxruntime", "load", "phi"), "evidence/same-seeds.png"
    ),
    "what is loaded is outside": put(
        ("runtimes", "onnxruntime", "load", "phi"), "../../../etc/passwd"
    ),
    "what is loaded is not listed": put(("runtimes", "onnxruntime", "load", "phi"), "a.onnx"),
    "what is loaded is the manifest": put(("runtimes", "onnxruntime", "load", "phi"), MANIFEST),
    "what was loaded is exchanged": lambda m: m["runtimes"]["onnxruntime"]["load"].update(
        theta=m["graphs"]["phi"], phi=m["graphs"]["theta"]
    ),
    "an until of no graph": put(("runtimes", "onnxruntime", "until"), {"psi": 1.0}),
    "an until in words": put(("runtimes", "onnxruntime", "until"), {"theta": "always"}),
    "no runtimes": put(("runtimes",), {}),
}
FILES: dict[str, Change] = {
    "a name that leaves the folder": lambda m: m["files"].update({"../x": m["files"]["README.md"]}),
    "an absolute name": lambda m: m["files"].update({"/etc/passwd": m["files"]["README.md"]}),
    "a name with an escape": lambda m: m["files"].update({"a\x1b[2J": m["files"]["README.md"]}),
    "a name with a null": lambda m: m["files"].update({"a\0b": m["files"]["README.md"]}),
    "half a character": lambda m: m["files"].update({"\ud800": m["files"]["README.md"]}),
    "a name twice, by a dot": lambda m: m["files"].update({"./README.md": m["files"]["README.md"]}),
    "a folder's name": lambda m: m["files"].update({"graphs": m["files"]["README.md"]}),
    "no name": lambda m: m["files"].update({"": m["files"]["README.md"]}),
    "a long name": lambda m: m["files"].update({"a" * 5000: m["files"]["README.md"]}),
    "a file that is not there": lambda m: m["files"].update({"b": m["files"]["README.md"]}),
    "ten thousand files": lambda m: m["files"].update(
        {f"f{k}": m["files"]["README.md"] for k in range(10_000)}
    ),
    "a size below nothing": put(("files", "README.md", "bytes"), -1),
    "a hash in capitals": put(("files", "README.md", "sha256"), "A" * 64),
    "a key too many": put(("surprise",), 1),
    "a schema that is true": put(("schema_version",), True),
    "a schema that is a fraction": put(("schema_version",), 1.0),
    "a schema that is older": put(("schema_version",), 0),
}
CORPUS = {
    f"{group}: {name}": change
    for group, changes in (
        ("start", START),
        ("sampler", SAMPLER),
        ("graphs", GRAPHS),
        ("files", FILES),
    )
    for name, change in changes.items()
}


@pytest.mark.parametrize("case", CORPUS)
def test_a_manifest_that_fits_nothing_is_refused(
    case: str, shared: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(runtime("onnxruntime"))
    for method in ("session", "admit"):
        monkeypatch.setattr(kind, method, lambda *_: pytest.fail("a runtime was given a file"))
    shutil.copyfile(TOY / MANIFEST, shared / MANIFEST)
    resealed(shared, CORPUS[case])
    exact: tuple[int, ...] = (6,)
    if "is a picture" in case or "is the README" in case or "exchanged" in case:
        exact = (4, 6)
    generated(shared, capfd, codes=exact)


def test_the_toy_itself_makes_its_image(shared: Path, capfd: Captured) -> None:
    shutil.copyfile(TOY / MANIFEST, shared / MANIFEST)
    generated(shared, capfd, codes=(0,))
    (shared.parent / "image.png").unlink()


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"a": 1, "a": 1}',
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b"1" * 100_000,
        b'"' + b"a" * (17 << 20) + b'"',
    ],
    ids=range(13),
)
def test_a_manifest_that_is_no_document(written: bytes, shared: Path, capfd: Captured) -> None:
    (shared / MANIFEST).write_bytes(written)
    generated(shared, capfd, codes=(6,))
    shutil.copyfile(TOY / MANIFEST, shared / MANIFEST)


def test_a_start_is_made_of_no_more_than_it_needs() -> None:
    """Labels are rows, not a square of all classes."""
    from edgegen.core.conditions import labels as of_classes
    from edgegen.core.latent import Latent
    from edgegen.core.spec import TensorSpec

    latent = Latent(TensorSpec("x", ("batch", 1)), of_classes(100_000))
    labels = latent.condition([5, 7])["label"]
    np.testing.assert_array_equal(np.argmax(labels, 1), [5, 7])
    assert labels.sum() == 2


def test_a_listed_folder_of_engines_is_only_data(tmp_path: Path, capfd: Captured) -> None:
    """What no runtime loads may be anything."""
    root = copy(tmp_path)
    resealed(root, listed(root, "int8/more/x.engine", b"not loaded"))
    generated(root, capfd, codes=(0,))


def test_a_manifest_whose_own_hash_is_wrong(tmp_path: Path, capfd: Captured) -> None:
    root = copy(tmp_path)
    data = read_json(root / MANIFEST)
    data["family"] = "dkgm"
    (root / MANIFEST).write_bytes(to_json(data))
    assert "E-HASH" in generated(root, capfd, codes=(6,))
    data["sha256"] = digest(data)
    (root / MANIFEST).write_bytes(to_json(data))
    generated(root, capfd, codes=(0,))


@pytest.mark.parametrize("levels", [90, 500, 900, 950, 5000])
def test_a_document_that_is_nested_deeply(levels: int, shared: Path, capfd: Captured) -> None:
    """Readers and writers of JSON do not bear the same depth."""
    text = (TOY / MANIFEST).read_text()
    deep = '{"a": ' * levels + "1" + "}" * levels
    (shared / MANIFEST).write_text(text.replace('"family": "cas-dm"', f'"family": {deep}'))
    attacked(["verify", str(shared), "--files-only"], capfd, (6,))
    shutil.copyfile(TOY / MANIFEST, shared / MANIFEST)
