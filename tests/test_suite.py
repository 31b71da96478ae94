"""What the test suite says about itself: the kind of machine, and whether a quick run was one."""

from __future__ import annotations

import pytest
from machine_kind import AMD, AMD_OLD, INTEL, INTEL_AMX, KINDS, described, kind_of
from quick_set import FEWEST, beyond_the_first_cases, packages, shortfall, touched


def cpu(vendor: str, model: str, *flags: str) -> str:
    return f"vendor_id\t: {vendor}\nmodel name\t: {model}\nflags\t\t: fpu {' '.join(flags)}\n"


@pytest.mark.parametrize(
    ("text", "kind", "instructions"),
    [
        (cpu("GenuineIntel", "X", "avx2", "avx512_vnni", "amx_int8"), INTEL_AMX, "AMX"),
        (cpu("GenuineIntel", "X", "avx2", "avx512_vnni"), INTEL, "AVX512-VNNI"),
        (cpu("GenuineIntel", "X", "avx2", "avx_vnni"), INTEL, "AVX-VNNI"),
        (cpu("AuthenticAMD", "X", "avx2", "avx512_vnni"), AMD, "AVX512-VNNI"),
        (cpu("AuthenticAMD", "X", "avx2", "avx_vnni"), AMD, "AVX-VNNI"),
        (cpu("AuthenticAMD", "X", "avx2"), AMD_OLD, "AVX2"),
        (cpu("HygonGenuine", "X"), "another kind", "no AVX2"),
    ],
)
def test_a_machine_is_one_kind_and_the_others_are_said_not_to_have_run(
    text: str, kind: str, instructions: str
) -> None:
    assert kind_of(text) == kind
    others = ", ".join(k for k in KINDS if k != kind)
    assert described(text) == f"machine kind: {kind} (X, {instructions}); not run here: {others}"


def test_a_machine_without_proc_is_another_kind() -> None:
    assert described("").startswith("machine kind: another kind (unknown model, ")


def test_a_quick_run_of_too_few_tests_says_how_many() -> None:
    assert f"at least {FEWEST}" in "".join(shortfall(FEWEST - 1, packages()))
    assert shortfall(FEWEST, packages()) == []


def test_a_quick_run_that_leaves_a_package_out_names_it() -> None:
    (sentence,) = shortfall(FEWEST, packages() - {"edgegen.explain"})
    assert "edgegen.explain" in sentence


def test_a_quick_run_takes_the_first_cases_of_a_test() -> None:
    tests = [f"f.py::{name}[{case}]" for name in ("a", "b") for case in range(5)]
    assert beyond_the_first_cases([*tests, "f.py::c"]) == {
        f"f.py::{name}[{case}]" for name in ("a", "b") for case in (3, 4)
    }


def test_a_test_file_touches_the_packages_it_imports() -> None:
    found = touched(["test_suite.py"])
    assert found == set()
    found = touched(["test_half.py"])
    assert {"edgegen.core", "edgegen.evidence", "edgegen.export"} <= found
    assert "edgegen.machine" not in found
