"""What `make test` leaves to `make long`, so that it takes minutes: trainings that go on until a
quality shows, and the other families of a promise that cas-dm's toy shows already. CI runs both.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

# of node ids below tests/; "?" stands for a bracket, which these patterns would read as a choice
LONG = (
    "test_cas_dm_toy.py::*",
    "test_dkgm_quality.py::*",
    "test_dkgm_training.py::*",
    "test_isc_gan_qat.py::test_rounding_costs_less_and_the_images_stay",
    "test_isc_gan_training.py::*",
    "test_lcd_family.py::test_one_command_trains_all_stages*",
    "test_lcd_quality.py::*",
    "test_metrics.py::test_a_trunk_learns*",
    "test_recover.py::test_images_that_came_no_nearer*",
    "test_recover.py::test_scales_of_the_base*",
    "test_size_estimate.py::test_the_memory_is_near*",
    *(
        f"{test}?{family}*"
        for family in ("dkgm", "isc-gan", "lcd")
        for test in (
            "test_adapt.py::test_20_adapting_steps_are_10_and_a_kill_9_and_10",
            "test_every_export.py::*",
            "test_every_family.py::test_every_family_s_20_steps_are_10_and_a_kill_9_and_10",
            "test_finetune.py::*",
            "test_larger.py::*",
            "test_recover.py::*",
        )
    ),
)


def is_long(node: str) -> bool:
    """Of a node id such as tests/test_larger.py::test_it[lcd]."""
    return any(fnmatchcase(node.removeprefix("tests/"), pattern) for pattern in LONG)
