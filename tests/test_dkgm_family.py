"""dkgm as a family: what leaves training, INT8 files for every runtime, recipes, and configs that
are refused.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from dkgm_toys import TINY, generator, trained

from edgegen.calibrate.choose import plan as choose
from edgegen.calibrate.observe import Observer
from edgegen.core.graph import Batch
from edgegen.core.runtime import Pipeline
from edgegen.evidence.bench import record
from edgegen.export import RUNTIMES, qdq, runtime
from edgegen.export.onnx import to_onnx
from edgegen.families import family
from edgegen.families.dkgm.family import FAMILY, Dkgm
from edgegen.families.unet import UNetConfig
from edgegen.workflows.export.build import describe
from edgegen.workflows.export.feeds import Trajectories
from edgegen.workflows.generators import LoadedGenerator, torch_pipeline

CHANGES: dict[str, dict[str, Any]] = {
    "default": {},
    "latent": {
        "mode": "latent",
        "kernel": "epanechnikov",
        "cond_coarse": True,
        "debias_net": "dae",
        "bank": "exemplars",
    },
    "pixel": {"mode": "pixel", "kernel": "radial", "bank": "exemplars", "classes": 0},
}


@cache
def made(name: str) -> Dkgm:
    model = generator(**CHANGES[name])
    trained(model, 24)
    return model


def executed(model: Dkgm, files: dict[str, Any]) -> Pipeline:
    def call(file: Any) -> Any:
        session = onnxruntime.InferenceSession(
            file.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return lambda **inputs: session.run(None, inputs)[0]

    return Pipeline(model.latent, model.sampler, {k: call(m) for k, m in files.items()}, batch=5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_graphs_become_int8_files_for_every_runtime(name: str) -> None:
    model = made(name)
    wanted = torch_pipeline(model)(range(12))
    models = {k: to_onnx(graph, k) for k, graph in model.graphs().items()}
    assert list(models) == ["coarse", "debias"]
    np.testing.assert_allclose(executed(model, models)(range(12)), wanted, atol=1e-4)
    observers = {
        k: Observer(m, qdq.candidates(m), model.sampler.timesteps, 1) for k, m in models.items()
    }
    Pipeline(model.latent, model.sampler, observers)(range(32))
    for observer in observers.values():
        observer.stats.check()
    assert observers["coarse"].stats.coverage == {0: 32}
    assert observers["debias"].stats.coverage == dict.fromkeys((1000, 640, 360, 160, 40), 32)
    plan = choose(models, {k: o.stats for k, o in observers.items()})
    for name in (name for name in RUNTIMES if runtime(name).dialect.int8_ops):
        quantized = {k: qdq.quantize(m, k, plan, runtime(name).dialect) for k, m in models.items()}
        for k, model_int8 in quantized.items():
            names = {t.name for t in model_int8.graph.initializer}
            convs = sum(n.op_type == "Conv" for n in models[k].graph.node)
            # the plan may leave the first and the last
            assert sum(w.endswith("weight.int") for w in names) >= 0.6 * convs
            assert not any("bank" in w and w.endswith(".int") for w in names)
        error = np.square(executed(model, quantized)(range(12)) - wanted).mean()
        assert error < 0.05 * wanted.var(), name


def test_the_coarse_graph_is_asked_once_and_the_other_once_a_step() -> None:
    model = made("default")
    asked = record(torch_pipeline(model), range(3))
    assert {name: len(calls) for name, calls in asked.items()} == {"coarse": 1, "debias": 5}


def test_graphs_are_frozen_copies() -> None:
    model = generator()
    before = model.graphs()["coarse"].module
    model.bank.values.zero_()
    label, x = torch.eye(2), torch.zeros(2, 3, 16, 16)
    pick = torch.full((2, 3), 0.5)
    assert torch.equal(
        before(x, pick, label), generator().graphs()["coarse"].module(x, pick, label)
    )
    assert not any(
        p.requires_grad for graph in model.graphs().values() for p in graph.module.parameters()
    )


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({}, "none"),
        ({"bank": "exemplars"}, "pixels"),
        ({"bank": "exemplars", "mode": "pixel"}, "pixels"),
        ({"bank": "exemplars", "mode": "latent"}, "features"),
        ({"mode": "latent"}, "none"),
    ],
)
def test_it_says_what_of_the_photos_it_holds(change: dict[str, Any], wanted: str) -> None:
    assert generator(**change).embeds_training_data == wanted


@pytest.mark.parametrize(("bank", "wanted"), [("centroids", "none"), ("exemplars", "pixels")])
def test_a_bundle_s_manifest_says_it_too(bank: str, wanted: str) -> None:
    source = LoadedGenerator("toy", "dkgm", generator(bank=bank), {}, Path("reference.safetensors"))
    said = describe(source, {}, {}, {}, Trajectories(source.generator, 32), {}, {})
    assert said["embeds_training_data"] == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", ["photos32", "photos64"])
def test_one_step_of_a_recipe_s_size_trains(name: str) -> None:
    config = replace(
        FAMILY.recipes[name]().config, classes=0, bank_fit=8, bank_size=2, kde_centroids=2
    )
    model, rng = FAMILY.build(config), torch.Generator().manual_seed(0)
    stream = [
        Batch(torch.rand(n, *model.image_shape, generator=rng) * 2 - 1, torch.zeros(n, 0), rng)
        for n in (2, 8)
    ]
    for objective in model.objectives():
        assert objective.begin is not None
        objective.begin(stream)
        loss = objective.loss(stream[0])
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.isfinite() and any(
            p.grad is not None and p.grad.abs().sum() > 0 for p in objective.params
        )


@pytest.mark.parametrize("name", sorted(FAMILY.recipes))
def test_recipes_build_and_the_zoo_s_is_small(name: str) -> None:
    recipe = family("dkgm").recipes[name]()
    with torch.device("meta"):
        model = FAMILY.build(recipe.config)
    assert [o.name for o in model.objectives()] == ["coarse", "debias"]
    assert (
        model.image_shape == (3, recipe.config.size, recipe.config.size)
        and (FAMILY.recipes[name].__doc__ or "").strip()
    )
    size = sum(
        v.numel() * (2 if v.is_floating_point() else v.element_size())
        for v in model.shipped.state_dict().values()
    )
    assert name not in ("photos32", "tiny") or size < 5.95e6
    if name in ("photos32", "tiny"):
        assert 5 <= recipe.config.steps <= 20 and model.embeds_training_data == "none"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"mode": "codes"}, "unknown mode 'codes'; known: pixel, dae, latent"),
        ({"kernel": "box"}, "unknown kernel 'box'; known: gaussian, epanechnikov, radial"),
        ({"bank": "none"}, "unknown bank"),
        ({"size": 18}, r"size 18 must divide by 4 \(patch and levels of coarse\)"),
        ({"bandwidth": 0.0}, "bandwidth must be in"),
        ({"bandwidth": float("nan")}, "bandwidth must be in"),
        ({"share": 1.0}, "share in"),
        ({"kde_centroids": 0}, "must be at least 1"),
        ({"code": 64}, "a code must not be larger than its image: at most 48 channels"),
        ({"code": 20}, "code a multiple of 16"),
        ({"code_cell": 3}, "code_cell must be 2, 4 or 8"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"power": 0.0}, "steps must be between 1 and 1000 and the power"),
        ({"noise": -1.0}, "noise must be in"),
        ({"solver": "heun"}, "Heun's solver is for noise 0"),
        ({"schedule": "approximation", "gain": (3.0, 1.0, 1.0)}, "decay in"),
        ({"classes": -1}, "classes 0"),
        ({"debias": UNetConfig(widths=(16,) * 5)}, "size 16 must divide by 32"),
    ],
)
def test_a_config_that_cannot_be_built_is_refused_in_words(
    change: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        replace(TINY, **change)
