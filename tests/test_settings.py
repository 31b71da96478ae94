"""Config fields from the command line: typed and checked by the family's own config, for every
family alike.
"""

from __future__ import annotations

import pytest

from edgegen.errors import UsageError
from edgegen.families import FAMILIES, family
from edgegen.workflows.config_changes import changed


def test_fields_are_set_with_their_own_types() -> None:
    found = family("dkgm")
    config = found.recipes["tiny"]().config
    made = changed(
        found,
        config,
        [
            "steps=8",
            "noise=0",
            "kernel=radial",
            "cond_coarse=true",
            "coarse.widths=[32,64]",
            "gain=[1,3,0.9]",
        ],
    )
    assert (made.steps, made.noise, made.kernel, made.cond_coarse) == (8, 0.0, "radial", True)
    assert (
        made.coarse.widths == (32, 64)
        and made.gain == (1.0, 3.0, 0.9)
        and made.debias == config.debias
    )
    # the last one counts
    assert changed(found, config, ["kernel=radial", "kernel=gaussian"]) == config


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_set_is_the_recipe_s_own(name: str) -> None:
    found = family(name)
    config = found.recipes["tiny"]().config
    assert changed(found, config, []) is config
    assert changed(found, config, [f"size={config.size}"]) == config


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("kde_centroid=5", "dkgm has no setting 'kde_centroid'"),
        ("coarse.width=5", "dkgm has no setting 'coarse.width'"),
        ("steps.more=5", "dkgm has no setting 'steps.more'"),
        ("steps", "write field=value"),
        ("steps=many", "steps: Input should be a valid integer"),
        ("steps=NaN", "steps: Input should be a valid integer"),
        ("noise=1e999", "noise: Input should be a valid number"),
        ("steps=0", "steps must be at least 1"),
        ("kernel=box", "kernel"),
        ("=", "dkgm has no setting ''"),
    ],
)
def test_what_cannot_be_set_is_named(change: str, text: str) -> None:
    found = family("dkgm")
    with pytest.raises(UsageError, match=text) as caught:
        changed(found, found.recipes["tiny"]().config, [change])
    assert caught.value.exit_code == 2 and text in str(caught.value)


def test_another_family_s_field_is_refused_with_its_own_fields() -> None:
    found = family("isc-gan")
    with pytest.raises(UsageError, match="isc-gan has no setting 'bank'") as caught:
        changed(found, found.recipes["tiny"]().config, ["bank=centroids"])
    assert "truncation" in caught.value.hint
