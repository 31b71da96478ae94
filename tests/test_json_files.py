"""JSON that edgegen writes is deterministic and finite, and what it refuses to read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgegen.core.files import read_json, to_json, write_bytes
from edgegen.errors import InputError


def test_json_is_deterministic_ascii_and_finite(tmp_path: Path) -> None:
    data = {"b": [1, 2.5, None, True], "a": {"ü": "é\n"}}
    assert (
        to_json(data) == to_json(dict(reversed(data.items())))
        and to_json(data).isascii()
        and to_json(data).endswith(b"}\n")
    )
    write_bytes(tmp_path / "x.json", to_json(data))
    assert read_json(tmp_path / "x.json") == data
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            to_json({"x": [bad]})


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not usable JSON"),
        (b"{", "not usable JSON"),
        (b'{"a": 1, "a": 2}', "a key appears twice"),
        (b'{"x": {"a": 1, "a": 2}}', "a key appears twice"),
        (b"[NaN]", "NaN is not a number"),
        (b"[-Infinity]", "-Infinity is not a number"),
        (b"[1e400]", "1e400 is out of range"),
        (b"[" * 200_000, "not usable JSON"),
        (b'{"a":' * 200_000, "not usable JSON"),
        (b"[" + b"1" * 5000 + b"]", "not usable JSON"),
        (b'["\xff"]', "not usable JSON"),
        (b"\xef\xbb\xbf[]", "not usable JSON"),
        ("[1]".encode("utf-16"), "not usable JSON"),
        ("[1]".encode("utf-32-le"), "not usable JSON"),
        (b"[1] trailing", "not usable JSON"),
        (b"[" + b" " * (16 << 20) + b"]", "the file is larger than 16777216 bytes"),
    ],
)
def test_json_that_is_refused(tmp_path: Path, data: bytes, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=text) as caught:
        read_json(path)
    assert caught.value.code == "E-JSON" and caught.value.path == str(path)


def test_json_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    texts = {"pipe": "not a file", ".": "not a file", "missing": "cannot be read: No such file"}
    for path, text in ((tmp_path / name, text) for name, text in texts.items()):
        with pytest.raises(InputError, match=text):
            read_json(path)
    (tmp_path / "small.json").write_text(json.dumps("x" * 100))
    with pytest.raises(InputError, match="larger than 50 bytes"):
        read_json(tmp_path / "small.json", limit=50)
