"""Looks at a fine-tuning while it runs: held-out photos beside what it draws now, the best adapter
kept, an end in time.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...cli import output
from ...core.files import read_json, to_json, write_bytes
from ...core.images import save_png, to_uint8
from ...core.seeds import PERIODIC_EVALUATION
from ...core.verdict import Interval
from ...errors import EdgegenError, GateFailed, InputError
from ...evidence import small_sample_distance
from ...evidence.curves import curves
from ...evidence.memory import Images, memory
from ...evidence.stopping import Rule, Watch
from ...evidence.timeline import timeline

if TYPE_CHECKING:
    from ...core.runtime import Pipeline
    from ...evidence.features import FeatureNetwork
    from ...training.data import Photos
    from ...training.loop import Trainer
    from .setup import Plan

DRAWN = 256  # images a look
FINAL = 512  # images of the last word
# images of trained and shipped view, and how like each other they must be
VIEWED, VIEW_DB = 64, 25.0
KEPT, ACROSS = 36, 12  # images and photos that stay in the run for pictures; of a look
FILE, PICTURES = "looks.json", "pictures.safetensors"


class Looks:
    """What was seen at each look, in the run's looks.json; a resumed run goes on with them."""

    def __init__(
        self, run: Path, plan: Plan, train: Photos, held: Photos, network: FeatureNetwork
    ) -> None:
        self.run, self.plan, self._network = run, plan, network
        with output.progress("features of the photos", len(train) + len(held)) as advance:
            self._train, self._held = (self._images(part.pixels, advance) for part in (train, held))
        self.along = small_sample_distance.directions(self._train.features, len(held))
        file = run / FILE
        self.watch = (
            Watch.from_json(read_json(file)["watch"])
            if file.is_file()
            else Watch(Rule(plan.options.patience))
        )
        self.last: dict[str, Any] = {}

    def begin(self, trainer: Trainer) -> None:
        """Called where the run begins or goes on: later looks are forgotten, and a run that had
        ended early stays ended.
        """
        self.watch = self.watch.rewind(trainer.step)
        trainer.ended = self.watch.decision.stop

    def after(self, trainer: Trainer) -> None:
        """Called after each step: looks when it is time, keeps the best, ends the run when it only
        gets worse.
        """
        # before its last stage nothing is finished
        first = max(trainer.span(objective)[0] for objective in trainer.objectives)
        every = max(1, (trainer.steps - first) // self.plan.options.looks)
        left = trainer.steps - trainer.step
        # the end is looked at anyway
        if left and (trainer.step <= first or (trainer.step - first) % every or 2 * left < every):
            return
        from ...training.record import pipeline

        made = self._drawn(pipeline(trainer), DRAWN)
        found = memory(made, self._train, self._held)
        distance = small_sample_distance.kernel(made.features, self._held.features)
        self.watch = self.watch.look(trainer.step, distance, found)
        seen, decision = self.watch.looks[-1], self.watch.decision
        output.note(
            f"look at step {seen.step}: KID {said(seen.kid)}, novelty {seen.novelty:.2f}, "
            f"near-copies {seen.near_copies}"
        )
        if decision.best == trainer.step:
            self._keep(trainer)
        steps = {f"step {look.step}" for look in self.watch.looks}
        before = {name: pixels for name, pixels in pictures(self.run).items() if name in steps}
        self._show({**before, f"step {seen.step}": made.pixels[:ACROSS]})
        self._write()
        if decision.stop and trainer.step != trainer.steps:
            output.note(f"ended early: {decision.why}")
            trainer.ended = True

    def finish(self, trainer: Trainer, out: Path) -> Path:
        """What the run leaves: base and the best look's adapter, or the best weights; and the last
        word on them.
        """
        from ...training import checkpoint
        from ...training.adapt import site

        if self.watch.decision.best is None:
            output.note(
                "no look was free of remembered photos: the last weights are kept, read looks.json"
            )
            self._keep(trainer)
        from ...training import run as runs
        from ..generators import torch_pipeline

        _, generator = runs.load(out)
        made = self._drawn(torch_pipeline(generator), FINAL)
        before = self._drawn(torch_pipeline(self._base()), FINAL)
        self.last = self._word(before, made)
        if self.plan.options.precision != "fp32":
            self.last["rounded_base"] = self._rounded(out, generator)
        self._write()
        ends = {
            "base": before.pixels[:KEPT],
            "adapted": made.pixels[:KEPT],
            "photos": _spaced(self._held.pixels),
        }
        self._show({**pictures(out), **ends})
        return out / (site.ADAPTER if self.plan.options.rank else checkpoint.WEIGHTS)

    def tell(self) -> None:
        """The last word as a table."""
        rows = [
            [
                name,
                said(Interval(**self.last["base"][name])),
                said(Interval(**self.last["adapted"][name])),
            ]
            for name in ("KID", "FD")
        ]
        report = self.last["memory"]
        output.table(["distance to held-out photos", "base", "adapted"], rows)
        print(
            f"FD x {told(self.last['ratio'])}; near-copies {report['near_copies']} of {FINAL} "
            "images; "
            f"novelty {report['features']['ratio']:.2f}; {self.last['what']}"
        )
        if doubt := doubted(self.last["ratio"]):
            output.note(doubt)
        if found := self.last.get("rounded_base"):
            print(
                f"images on the {self.plan.options.precision} base and those that ship: "
                f"{found['psnr_db']:.1f} dB"
            )

    def to_json(self) -> dict[str, Any]:
        return {"watch": self.watch.to_json(), "last": self.last}

    def _word(self, before: Images, made: Images) -> dict[str, Any]:
        held, found = self._held.features, memory(made, self._train, self._held)
        fd = [
            small_sample_distance.frechet(part.features, held, self.along)
            for part in (before, made)
        ]
        kid = [small_sample_distance.kernel(part.features, held) for part in (before, made)]
        named = [
            {"KID": vars(k.interval()), "FD": vars(f.interval())}
            for k, f in zip(kid, fd, strict=True)
        ]
        network = self._network
        return {
            "base": named[0],
            "adapted": named[1],
            "ratio": _ratio(fd[0], fd[1]),
            "memory": found.to_json(),
            "what": f"{network.name} at {network.size} px, {FINAL} images, {len(self._held)} "
            f"held-out and {len(self._train)} "
            f"training photos, FD along {self.along.axes.shape[1]} directions of the training "
            "photos, 95 % intervals",
        }

    def _rounded(self, out: Path, generator: Any) -> dict[str, float]:
        """How far what was trained is from what ships; GateFailed when it is too far for the looks
        to speak of it.
        """
        from ...cli.merge import views
        from ...evidence.distances import PairedPsnr, squared_error
        from ...training.adapt import site

        a, b = views(
            out, read_json(out / "run.json"), generator, self.plan.options.precision, VIEWED
        )
        found = PairedPsnr.of(squared_error(a, b))
        if not found.pooled_db >= VIEW_DB:
            site.reject(out)
            raise GateFailed(
                "E-BASE-VIEW",
                f"images on the {self.plan.options.precision} base are {found.pooled_db:.1f} dB "
                "from "
                f"those that ship, {VIEW_DB:g} dB are needed",
                path=out,
                hint="use --base fp32",
            )
        return {
            "psnr_db": min(found.pooled_db, 200.0),
            "max_abs": float(np.abs(a - b).max()),
            "images": VIEWED,
        }

    def _show(self, shown: dict[str, np.ndarray]) -> None:
        """pictures.safetensors, and from it the same seeds over time and the curves of the
        looks.
        """
        from safetensors.numpy import save

        write_bytes(
            self.run / PICTURES,
            save({name: np.ascontiguousarray(pixels) for name, pixels in shown.items()}),
        )
        steps = sorted(
            (name for name in shown if name.startswith("step ")),
            key=lambda name: int(name.split()[1]),
        )
        rows = [(name, shown[name]) for name in (["base"] if "base" in shown else []) + steps]
        save_png(self.run / "timeline.png", timeline(rows, _spaced(self._held.pixels), ACROSS))
        save_png(
            self.run / "curves.png",
            curves(self.watch.looks, self.watch.rule.limits, self.watch.decision.best),
        )

    def _keep(self, trainer: Trainer) -> None:
        """The averages of now as what the run leaves."""
        from ...training import checkpoint
        from ...training.adapt import site
        from ...training.loop import shipped
        from ...training.record import averages_in

        if not self.plan.options.rank:
            write_bytes(self.run / checkpoint.WEIGHTS, checkpoint.to_bytes(shipped(trainer)))
            return
        if not (self.run / site.BASE).is_file():
            site.write_base(self.run, self.plan.master)
        generator: Any = trainer.generator
        with averages_in(trainer):
            site.write(self.run, generator.adapter(self.plan.digest), generator.measured())

    def _base(self) -> Any:
        from ...training.adapt import site

        return site.plain(self.plan.base.family, self.plan.recipe.config, self.plan.master)

    def _write(self) -> None:
        write_bytes(self.run / FILE, to_json(self.to_json()))

    def _drawn(self, draw: Pipeline, count: int) -> Images:
        parts = [to_uint8(draw(PERIODIC_EVALUATION.take(64, k))) for k in range(0, count, 64)]
        return self._images(np.concatenate(parts), lambda _: None)

    def _images(self, pixels: np.ndarray, advance: Any) -> Images:
        parts = []
        for k in range(0, len(pixels), 64):
            parts.append(self._network(pixels[k : k + 64]))
            advance(len(parts[-1]))
        return Images(pixels, np.concatenate(parts))


def pictures(run: Path) -> dict[str, np.ndarray]:
    """What a run keeps of its images: "base", "adapted", "photos", "step 120"; empty where it has
    none yet.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if not (run / PICTURES).is_file():
        return {}
    try:
        found: dict[str, np.ndarray] = load((run / PICTURES).read_bytes())
    except SafetensorError as error:
        raise InputError(
            "E-ST-HEADER", f"not a safetensors file: {error}", path=run / PICTURES
        ) from error
    return found


def _ratio(
    before: small_sample_distance.Distance, after: small_sample_distance.Distance
) -> dict[str, float] | None:
    """None where the base's distance cannot be told from zero: few held-out photos, or a base that
    is there already.
    """
    try:
        return vars(small_sample_distance.ratio(before, after))
    except EdgegenError as error:
        if error.code != "E-FID-SCALE":
            raise
        return None


def told(interval: dict[str, float] | None) -> str:
    """As a table shows it."""
    return (
        "not told: the base's cannot be told from zero"
        if interval is None
        else said(Interval(**interval))
    )


def doubted(ratio: dict[str, float] | None) -> str:
    """What is to be said of a distance, after / before, that is not clearly below 1; nothing where
    it is.
    """
    if ratio is None or ratio["high"] < 1:
        return ""
    than = (
        "farther from your photos than"
        if ratio["low"] > 1
        else "no nearer to your photos, as far as can be told, than"
    )
    return (
        f"W-TUNE-NO-GAIN: what it draws is {than} what the base draws: give it more --steps, "
        "or "
        "look at timeline.png"
    )


def _spaced(photos: np.ndarray) -> np.ndarray:
    """KEPT of them, evenly: they are sorted by class."""
    return photos[np.linspace(0, len(photos) - 1, min(KEPT, len(photos))).astype(int)]


def said(interval: Interval) -> str:
    return f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g})"
