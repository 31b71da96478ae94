"""Sizes as people say them."""

from __future__ import annotations

import pytest

from edgegen.errors import UsageError
from edgegen.workflows.byte_sizes import bytes_in_words, bytes_of


def test_sizes_are_read_and_said_as_people_say_them() -> None:
    assert [bytes_of(text) for text in ("500MB", "7.5GB", "8gb")] == [500e6, 7.5e9, 8e9]
    assert [bytes_in_words(n) for n in (12_345_678, 999e6, 3.2e9)] == ["12 MB", "999 MB", "3.2 GB"]


@pytest.mark.parametrize("size", ["", "8", "GB", "-3GB", "0MB", "nanGB", "8TB", "1e-9GB"])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(UsageError, match=r"--memory must be such as 500MB or 8GB, got "):
        bytes_of(size)
