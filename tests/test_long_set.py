"""What `make test` leaves to `make long` is there, and what every family promises keeps one
family.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from long_set import LONG, is_long

HERE = Path(__file__).parent


@pytest.mark.parametrize("pattern", sorted({p.partition("?")[0] for p in LONG}))
def test_a_pattern_names_tests_that_exist(pattern: str) -> None:
    file, _, test = pattern.partition("::")
    assert f"def {test.partition('*')[0]}" in (HERE / file).read_text() or test == "*"


def test_cas_dm_s_case_stays_where_others_are_left() -> None:
    for pattern in (p for p in LONG if "?" in p):
        case = pattern.partition("?")[0].replace("*", "test_it")
        assert is_long(f"tests/{case}[lcd]") and is_long(f"tests/{case}[lcd-photos32]")
        assert not is_long(f"tests/{case}[cas-dm]") and not is_long(f"tests/{case}")
