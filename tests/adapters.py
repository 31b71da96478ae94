"""Tiny generators with adapters that several tests share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from toys import shapes

from edgegen.families import Recipe, family
from edgegen.training.adapt import site
from edgegen.training.adapt.adapted import Adapted, targets
from edgegen.training.adapt.files import Lora
from edgegen.training.run import RunOptions, RunSettings, train


def master(name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """A tiny family's tensors, zero-initialised layers and statistics random too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = family(name).build(family(name).recipes["tiny"]().config)
        return {
            k: v + 0.05 * (torch.rand_like(v) - 0.5 * ("running_var" not in k))
            if v.is_floating_point() and v.dim()
            else v
            for k, v in made.networks.state_dict().items()
        }


def adapted(name: str, rank: int = 2, tensors: Mapping[str, torch.Tensor] | None = None) -> Adapted:
    found = family(name)
    tensors = tensors or master(name)
    config = found.recipes["tiny"]().config
    pairs, whole = targets(site.plain(found, config, tensors).networks, found.tuning)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Adapted(found, config, tensors, Lora(rank, 2.0 * rank, pairs, whole))


def shaken(name: str) -> Any:
    """An adapted generator whose pairs are not zero."""
    made = adapted(name)
    with torch.no_grad():
        for key, value in made.base.networks.named_parameters():
            if value.requires_grad and ("lora" in key or value.dim() > 1):
                value.add_(0.1 * torch.randn_like(value))
    return made


def recipe(name: str, steps: int) -> Recipe:
    return replace(family(name).recipes["tiny"](), images=8 * steps, batch=8, warmup=2, rate=3e-3)


def settings(name: str, steps: int, rank: int = 2) -> RunSettings:
    about = {"base": name, "base_sha256": site.digest(master(name)), "rank": rank}
    finetune = {"rank": rank}
    return RunSettings(name, "finetune", recipe(name, steps), adapt=about, finetune=finetune)


def run(
    name: str,
    out: Path,
    steps: int = 10,
    resume: bool = False,
    progress: Any = None,
    every: int = 10,
) -> Path:
    """A whole adapted run on disk, without looks."""
    made = adapted(name)

    def finish(trainer: Any, out: Path) -> Path:
        from edgegen.training.record import averages_in

        site.write_base(out, master(name))
        with averages_in(trainer):
            return site.write(out, made.adapter(site.digest(master(name))), made.measured())

    train(
        settings(name, steps),
        shapes(64, 16),
        out,
        resume,
        every,
        progress or (lambda *_: None),
        RunOptions(generator=made, finish=finish),
    )
    return out
