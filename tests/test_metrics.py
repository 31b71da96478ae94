"""Metric functions of the refiner: test 7 of docs/methods/cas-dm.md, C.3, oracles, and the judge
that is taught.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from toys import CONFIG, generator, shapes, tensor, train, trainer

from edgegen.core.graph import Batch
from edgegen.families import Judged
from edgegen.families.cas_dm import CasDm
from edgegen.families.metrics import METRICS, Metric, PDist, ms_ssim


def lessons(count: int, classes: int, size: int = 16) -> Iterator[Batch]:
    photos = shapes(16 * count, size)
    for k in range(count):
        part = slice(16 * k, 16 * (k + 1))
        labels = torch.eye(2)[torch.from_numpy(photos.labels[part])][:, :classes]
        yield Batch(tensor(photos)[part], labels, torch.Generator().manual_seed(k))


@pytest.fixture(scope="module")
def pdist() -> PDist:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = PDist(3)
    made.teach(lessons(30, 2), 2)
    return made


@pytest.fixture(params=[*METRICS, "pdist"])
def metric(request: pytest.FixtureRequest, pdist: PDist) -> Metric:
    return METRICS.get(request.param, pdist)


def blurred(images: Tensor, sigma: float) -> Tensor:
    line = torch.exp(-((torch.arange(-6, 7) / sigma) ** 2) / 2)
    window = torch.outer(line, line) / line.sum() ** 2
    return F.conv2d(F.pad(images, (6,) * 4, mode="reflect"), window.expand(3, 1, -1, -1), groups=3)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_7_a_distance_is_zero_for_itself_symmetric_and_positive(metric: Metric, size: int) -> None:
    a, b = tensor(shapes(6, size)), tensor(shapes(6, size, seed=1))
    assert metric(a, b).shape == (6,)
    # variances of flat places are differences of equal numbers
    assert metric(a, a).abs().max() <= 2e-5
    torch.testing.assert_close(metric(a, b), metric(b, a))
    assert (metric(a, b) > 0).all()


def test_7_each_image_is_judged_alone(metric: Metric) -> None:
    a, b = tensor(shapes(6)), tensor(shapes(6, seed=1))
    torch.testing.assert_close(metric(a, b)[2:3], metric(a[2:3], b[2:3]))


def test_7_gradients_are_those_of_finite_differences(metric: Metric, pdist: PDist) -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1, 3, 8, 8, generator=rng, dtype=torch.float64) * 2 - 1 for _ in range(2))
    pdist.double()
    try:
        assert torch.autograd.gradcheck(
            lambda x: metric(x, b), a.requires_grad_(), eps=1e-7, atol=1e-4, rtol=1e-3
        )
    finally:
        pdist.float()


def test_7_more_blur_is_further_away(metric: Metric) -> None:
    images = tensor(shapes(32, 32))
    distances = [
        float(metric(blurred(images, sigma), images).mean()) for sigma in (0.4, 0.7, 1.0, 1.5, 2.5)
    ]
    assert (
        distances == sorted(distances) and distances[0] > 0 and distances[-1] > 1.5 * distances[0]
    )


def test_7_gradients_are_finite_where_images_are_flat_equal_or_opposite(metric: Metric) -> None:
    flat = torch.zeros(2, 3, 16, 16)
    noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for a, b in (
        (flat, flat),
        (flat, flat + 1),
        (noise, noise),
        (noise, -noise),
        (4 * noise, flat),
    ):
        a = a.clone().requires_grad_()
        metric(a, b).sum().backward()  # type: ignore[no-untyped-call]
        assert a.grad is not None and a.grad.isfinite().all()


def test_7_the_trunk_is_frozen_and_stays_as_it_is(pdist: PDist) -> None:
    before = {k: v.clone() for k, v in pdist.state_dict().items()}
    a = tensor(shapes(4)).requires_grad_()
    pdist(a, tensor(shapes(4, seed=1))).sum().backward()
    assert not pdist.training and not any(
        p.requires_grad or p.grad is not None for p in pdist.parameters()
    )
    assert all(torch.equal(before[k], v) for k, v in pdist.state_dict().items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("size", "scales"), [(16, 2), (32, 3), (64, 4)])
def test_ms_ssim_is_torchmetrics(size: int, scales: int) -> None:
    from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure

    betas = (0.0448, 0.2856, 0.3001, 0.2363)[:scales]
    theirs = MultiScaleStructuralSimilarityIndexMeasure(
        sigma=0.9,
        kernel_size=7,
        data_range=1.0,
        betas=tuple(b / sum(betas) for b in betas),
        reduction="none",
        normalize=None,
    )
    a = tensor(shapes(5, size))
    for b in (
        blurred(a, 1.0),
        (a + 0.2 * torch.randn(a.shape, generator=torch.Generator().manual_seed(0))).clip(-1, 1),
        a / 2,
    ):
        torch.testing.assert_close(
            1 - ms_ssim(a, b), theirs(a / 2 + 0.5, b / 2 + 0.5), atol=1e-5, rtol=1e-5
        )
        theirs.reset()


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 0])
def test_a_trunk_learns_labels_or_quarter_turns(classes: int) -> None:
    torch.manual_seed(0)
    first = PDist(3)
    start = {k: v.clone() for k, v in first.state_dict().items()}
    accuracy = first.teach(lessons(60, classes), classes)
    assert all(not torch.equal(start[k], v) for k, v in first.state_dict().items())
    if classes:
        assert accuracy >= 0.8
    second = PDist(3)
    second.load_state_dict(start)
    torch.manual_seed(99)  # the process's own stream plays no part
    second.teach(lessons(60, classes), classes)
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())


def test_an_untaught_trunk_judges_nothing() -> None:
    fresh, images = PDist(3), tensor(shapes(2))
    with pytest.raises(ValueError, match="this PDist has a random trunk: teach it"):
        fresh(images, images)
    with pytest.raises(ValueError, match="cannot be taught without images"):
        fresh.teach([], 0)
    with pytest.raises(ValueError, match="random trunk"):
        fresh(images, images)


def test_it_is_lpips_formula(pdist: PDist) -> None:
    """Written again from C.2.7: over the channel norm, squared difference, sum of channels, mean of
    places, sum of layers.
    """
    a, b = tensor(shapes(3)), tensor(shapes(3, seed=1))
    wanted = torch.zeros(3)
    for f, g in zip(pdist.features(a), pdist.features(b), strict=True):
        f = f / (f.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)
        g = g / (g.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)
        wanted += (f - g).pow(2).sum(1).mean((1, 2))
    torch.testing.assert_close(pdist(a, b), wanted)
    assert [f.shape[1] for f in pdist.features(a)] == [32, 64, 128, 128]


@pytest.mark.slow
def test_a_generator_with_pdist_trains_and_keeps_its_judge_to_itself() -> None:
    run = trainer(replace(CONFIG, metric="pdist"), steps=3, precision="bf16")
    model = run.generator
    assert isinstance(model, CasDm) and isinstance(model, Judged) and model.judge is not None
    with pytest.raises(ValueError, match="random trunk"):
        train(run)
    model.teach(run.lessons(5))
    judge = {k: v.clone() for k, v in model.judge.state_dict().items()}
    run = trainer(replace(CONFIG, metric="pdist"), steps=3, precision="bf16")
    assert isinstance(run.generator, CasDm) and run.generator.judge is not None
    run.generator.judge.load_state_dict(judge)
    assert all(value == value for report in train(run) for value in report.values())
    assert all(torch.equal(judge[k], v) for k, v in run.generator.judge.state_dict().items())
    plain = generator()
    assert plain.judge is None
    assert plain.networks.state_dict().keys() == model.networks.state_dict().keys()
    with_judge = generator(replace(CONFIG, metric="pdist")).networks.state_dict()
    # nor does it shift their start
    assert all(torch.equal(v, with_judge[k]) for k, v in plain.networks.state_dict().items())
