"""The reference of real images: deterministic bytes, refused when it does not fit, and nothing of a
photo in it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from edgegen.errors import EdgegenError, InputError, ReferenceMismatch
from edgegen.evidence.distances import Moments, frechet
from edgegen.evidence.reference import Reference, build, read


@dataclass(frozen=True)
class Network:
    """Stands in for a feature network: the first 12 pixels."""

    name: str = "first-pixels"
    sha256: str = "ab" * 32
    size: int = 32
    dim: int = 12

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1)[:, : self.dim].astype(np.float32)


def features(n: int = 200, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(9).normal(size=(12, 12)))[0]
    out: np.ndarray = (rng.normal(size=(n, 12)) * np.arange(12, 0, -1) @ turn + 5).astype(
        np.float32
    )
    return out


@pytest.fixture
def reference() -> Reference:
    return build(features(), Network(), "drawn", k=4)


def test_it_comes_back_from_its_file(reference: Reference, tmp_path: Path) -> None:
    reference.write(tmp_path / "a.safetensors")
    back = read(tmp_path / "a.safetensors")
    for name in ("centre", "projection", "mean", "cov"):
        np.testing.assert_array_equal(getattr(back, name), getattr(reference, name))
    assert (back.name, back.network, back.network_sha256, back.size, back.count) == (
        "drawn",
        "first-pixels",
        "ab" * 32,
        32,
        200,
    )
    assert back.sha256 == reference.sha256 and back.k == 4
    build(features(), Network(), "drawn", k=4).write(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert build(features(seed=1), Network(), "drawn", k=4).sha256 != reference.sha256


def test_the_directions_are_the_main_ones_and_orthonormal(reference: Reference) -> None:
    p = reference.projection
    assert p.dtype == np.float32 and p.shape == (12, 4)
    np.testing.assert_allclose(p.T @ p, np.eye(4), atol=1e-5)
    np.testing.assert_allclose(
        np.diag(reference.cov), np.linalg.eigvalsh(np.cov(features().T))[::-1][:4], rtol=1e-4
    )
    np.testing.assert_allclose(reference.mean, 0, atol=1e-4)


def test_projection_keeps_distances_within_its_directions(reference: Reference) -> None:
    whole = build(features(), Network(), "drawn", k=12)
    other = features(150, seed=3) * 1.2
    assert frechet(Moments.of(whole.project(other)), whole.moments) == pytest.approx(
        frechet(Moments.of(other), Moments.of(features())), rel=1e-4
    )
    own = Moments.of(reference.project(features()))
    assert frechet(own, reference.moments) == pytest.approx(0, abs=1e-5)


def test_no_photo_can_be_read_off_it(reference: Reference) -> None:
    stored = np.concatenate([reference.centre[None], reference.projection.T])
    assert np.linalg.norm(features()[:, None] - stored, axis=2).min() > 1


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        (Network(name="inception-v3"), "inception-v3@abababababab at 32 px"),
        (Network(sha256="cd" * 32), "first-pixels@cdcdcdcdcdcd at 32 px"),
        (Network(size=64), "first-pixels@abababababab at 64 px"),
    ],
)
def test_another_network_is_refused_with_both_names(
    reference: Reference, other: Network, shown: str
) -> None:
    reference.check(Network())
    with pytest.raises(ReferenceMismatch) as caught:
        reference.check(other)
    assert str(caught.value) == (
        "error[E-FID-REF] reference drawn was made with first-pixels@abababababab at 32 px and 200 "
        "images, "
        f"the features asked for are {shown} - use that network, or make a reference with this one"
    )
    assert caught.value.exit_code == 4


def test_features_that_do_not_fit_are_refused(reference: Reference) -> None:
    with pytest.raises(ReferenceMismatch, match=r"needs features \(n, 12\), got \(5, 3\)"):
        reference.project(np.zeros((5, 3), np.float32))
    with pytest.raises(EdgegenError, match="E-NONFINITE"):
        reference.project(np.full((5, 12), np.nan, np.float32))
    with pytest.raises(EdgegenError, match="E-NONFINITE"):
        build(np.full((50, 12), np.inf, np.float32), Network(), "bad", k=4)
    with pytest.raises(ReferenceMismatch, match="gives"):
        build(features()[:, :5], Network(), "bad", k=4)
    with pytest.raises(InputError, match="100 directions of 12 need at least 200 images, got 150"):
        build(features(150), Network(), "bad", k=100)
    with pytest.raises(InputError, match="4 directions of 12 need at least 8 images, got 7"):
        build(features(7), Network(), "bad", k=4)


def tensors(reference: Reference) -> dict[str, np.ndarray]:
    return load(reference.to_bytes())


def header(reference: Reference, **changed: object) -> dict[str, str]:
    about = {
        "version": 1,
        "name": "drawn",
        "network": "n",
        "network_sha256": "s",
        "size": 32,
        "count": 200,
        **changed,
    }
    return {"edgegen.reference": json.dumps(about)}


def test_a_file_that_is_not_a_reference_is_named(reference: Reference, tmp_path: Path) -> None:
    good = tensors(reference)
    cases: list[tuple[bytes, str]] = [
        (b"", "not a usable reference"),
        (b"\x80\x02}q\x00.", "not a usable reference"),
        (reference.to_bytes()[:-1], "not a usable reference"),
        (save(good), "__metadata__"),
        (save(good, metadata={"edgegen.reference": "{"}), "not a usable reference"),
        (save(good, metadata={"edgegen.reference": "[" * 50_000}), "not a usable reference"),
        (save(good, metadata=header(reference, version=2)), "version 2, this edgegen reads 1"),
        (
            save(good, metadata=header(reference, count="many")),
            "count is missing or of another type",
        ),
        (save(good, metadata=header(reference, size=True)), "size or count"),
        (save({k: v for k, v in good.items() if k != "cov"}, metadata=header(reference)), "cov"),
        (save({**good, "more": good["mean"]}, metadata=header(reference)), "shapes do not fit"),
        (
            save({**good, "mean": good["mean"][:2].copy()}, metadata=header(reference)),
            "shapes do not fit",
        ),
        (
            save({**good, "mean": good["mean"].astype(np.float32)}, metadata=header(reference)),
            "another type",
        ),
        (save({**good, "mean": good["mean"] * np.nan}, metadata=header(reference)), "NaN"),
        (
            save({**good, "cov": np.triu(np.ones((4, 4)))}, metadata=header(reference)),
            "not symmetric",
        ),
    ]
    file = tmp_path / "bad.safetensors"
    for data, said in cases:
        file.write_bytes(data)
        with pytest.raises(InputError) as caught:
            read(file)
        assert (
            said in str(caught.value)
            and str(file) in str(caught.value)
            and caught.value.code == "E-FID-REF"
        )
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read(tmp_path / "absent")


def test_its_hash_covers_everything(reference: Reference) -> None:
    changed = [
        replace(reference, name="x"),
        replace(reference, count=201),
        replace(reference, mean=reference.mean + 1e-9),
    ]
    assert len({reference.sha256, *(c.sha256 for c in changed)}) == 4
