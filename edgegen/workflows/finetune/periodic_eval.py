"""Periodic evaluations of a fine-tuning: held-out photos beside what it draws now, the best adapter
kept, an end in time. Files and documents call one a look.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ...core.files import read_json, to_json
from ...core.images import PICTURE_BYTES, save_png, to_uint8
from ...core.progress import Advance, Listener
from ...core.reader import read_bytes
from ...core.seeds import PERIODIC_EVALUATION
from ...core.verdict import Interval
from ...errors import EdgegenError, GateFailed, InputError
from ...evidence import nearness, small_sample_distance
from ...evidence.curves import curves
from ...evidence.memory import Images, memory
from ...evidence.stopping import Rule, Watch
from ...evidence.timeline import timeline

if TYPE_CHECKING:
    from ...core.graph import Generator
    from ...core.runtime import Pipeline
    from ...evidence.features import FeatureNetwork
    from ...training.adapt.adapted import Adapted
    from ...training.data import Photos
    from ...training.loop import Trainer
    from ...training.recognition import Recogniser
    from .setup import FinetunePlan

EVALUATION_IMAGES = 256
FINAL_IMAGES = 512  # of the last word
# images of trained and shipped view, and how like each other they must be
VIEW_IMAGES, VIEW_DB = 64, 25.0
# images and photos that stay in the run for pictures; of one evaluation
KEPT_PICTURES, KEPT_PICTURES_EACH = 36, 12
FILE, PICTURES = "looks.json", "pictures.safetensors"


class PeriodicEvaluation:
    """All evaluations of one run, in its looks.json; a resumed run goes on with them."""

    def __init__(
        self,
        run: Path,
        plan: FinetunePlan,
        network: FeatureNetwork,
        train: Images,
        held_out: Images,
        listen: Listener,
    ) -> None:
        self.run, self.plan, self._network, self._listen = run, plan, network, listen
        self._train, self._held_out = train, held_out
        smaller = plan.choices.look_images
        self._images = smaller or EVALUATION_IMAGES
        self._final_images = FINAL_IMAGES if smaller is None else 2 * smaller
        compared = min(len(held_out), self._final_images)
        self._directions = small_sample_distance.directions(train.features, compared)
        file = run / FILE
        self.watch = _kept(run) if file.is_file() else Watch(Rule(plan.choices.patience))
        self.last: dict[str, Any] = {}
        # of the photos' classes, and the held-out photos' labels; none where classes are not drawn
        self._recogniser: tuple[Recogniser, np.ndarray] | None = None

    @classmethod
    def of(
        cls,
        run: Path,
        plan: FinetunePlan,
        train: Photos,
        held_out: Photos,
        network: FeatureNetwork,
        listen: Listener,
    ) -> PeriodicEvaluation:
        """With the features of the photos, computed here once."""
        label = "features of the photos"
        with listen.progress(label, len(train) + len(held_out)) as advance:
            seen, unseen = (_images(network, part.pixels, advance) for part in (train, held_out))
        made = cls(run, plan, network, seen, unseen, listen)
        made._recogniser = _recogniser(plan, seen, train, held_out)
        return made

    def begin(self, trainer: Trainer) -> None:
        """Called where the run begins or goes on: later evaluations are forgotten, one that was
        interrupted is made, and a run that had ended early stays ended.
        """
        self.watch = self.watch.rewind(trainer.step)
        trainer.ended = self.watch.decision.stop
        if trainer.step and trainer.step not in {look.step for look in self.watch.looks}:
            self.after(trainer)

    def after(self, trainer: Trainer) -> None:
        """Called after each step: evaluates when it is time, keeps the best, ends the run when it
        only gets worse.
        """
        if not self._due(trainer):
            return
        from ...training.record import pipeline

        drawn = self._drawn(pipeline(trainer), self._images)
        remembered = memory(drawn, self._train, self._held_out)
        distance = small_sample_distance.kernel(drawn.features, self._held_out.features)
        self.watch = self.watch.look(trainer.step, distance, remembered)
        newest, decision = self.watch.looks[-1], self.watch.decision
        self._listen.note(
            f"look at step {newest.step}: KID {interval_text(newest.kid)}, novelty "
            f"{newest.novelty:.2f}, near-copies {newest.near_copies}"
        )
        if decision.best == trainer.step:
            self._keep(trainer)
        steps = {f"step {look.step}" for look in self.watch.looks}
        before = {name: pixels for name, pixels in pictures(self.run).items() if name in steps}
        self._show({**before, f"step {newest.step}": drawn.pixels[:KEPT_PICTURES_EACH]})
        self._write()
        if decision.stop and trainer.step != trainer.steps:
            self._listen.note(f"ended early: {decision.why}")
            trainer.ended = True

    def _due(self, trainer: Trainer) -> bool:
        """Evenly over the last stage, before which nothing is finished, and at the end."""
        first = max(trainer.span(objective)[0] for objective in trainer.objectives)
        every = max(1, (trainer.steps - first) // self.plan.choices.evaluations)
        left = trainer.steps - trainer.step
        if not left:
            return True
        # one that would come shortly before the end is left out
        return trainer.step > first and not (trainer.step - first) % every and 2 * left >= every

    def finish(self, trainer: Trainer, out: Path) -> Path:
        """What the run leaves: base and the best evaluation's adapter, or the best weights; and the
        last word on them.
        """
        from ...training import checkpoint
        from ...training import run as runs
        from ...training.adapt import site
        from ..generators import torch_pipeline

        if self.watch.decision.best is None:
            self._listen.note(
                "every comparison found memorised photos: the last weights are kept, see looks.json"
            )
            self._keep(trainer)
        _, generator = runs.load(out)
        draw = torch_pipeline(generator)
        adapted = self._drawn(draw, self._final_images)
        base = self._drawn(torch_pipeline(self.plan.base_generator()), self._final_images)
        self.last = self._last_word(base, adapted)
        self.last["recognition"] = self._recognition(draw, adapted)
        if self.plan.choices.precision != "fp32":
            self.last["rounded_base"] = self._rounded_base(out, generator)
        self._write()
        ends = {
            "base": base.pixels[:KEPT_PICTURES],
            "adapted": adapted.pixels[:KEPT_PICTURES],
            "photos": _spaced(self._held_out.pixels),
        }
        self._show({**pictures(out), **ends})
        for warning in self.last["warnings"]:
            self._listen.note(warning)
        return out / (site.ADAPTER if self.plan.choices.rank else checkpoint.WEIGHTS)

    def to_json(self) -> dict[str, Any]:
        """looks.json."""
        return {"watch": self.watch.to_json(), "last": self.last}

    def _last_word(self, base: Images, adapted: Images) -> dict[str, Any]:
        held_out = self._held_out.features
        frechet = [
            small_sample_distance.frechet(drawn.features, held_out, self._directions)
            for drawn in (base, adapted)
        ]
        kernel = [
            small_sample_distance.kernel(drawn.features, held_out) for drawn in (base, adapted)
        ]
        distances = [
            {"KID": vars(kid.interval()), "FD": vars(fd.interval())}
            for kid, fd in zip(kernel, frechet, strict=True)
        ]
        network, ratio, scale = self._network, _ratio(*frechet), self._scale(base, adapted)
        return {
            "base": distances[0],
            "adapted": distances[1],
            "ratio": ratio,
            "scale": scale.to_json(),
            "warnings": [words for words in (doubted(ratio), nearness.far_words(scale)) if words],
            "images": self._final_images,
            "memory": memory(adapted, self._train, self._held_out).to_json(),
            "what": f"{network.name} at {network.size} px, {self._final_images} images, "
            f"{len(self._held_out)} held-out and {len(self._train)} training photos, FD along "
            f"{self._directions.axes.shape[1]} directions of the training photos, 95 % intervals",
        }

    def _scale(self, base: Images, adapted: Images) -> nearness.NearnessScale:
        """Where both are between other photos of the set and the same photos blurred."""
        train = self._train
        places = nearness.spaced(len(train), len(adapted))
        blurred = _images(self._network, nearness.blurred(train.pixels[places]), lambda _: None)
        sides = {
            nearness.PHOTOS: train.features[places],
            nearness.BLURRED: blurred.features,
            nearness.BASE: base.features,
            nearness.ADAPTED: adapted.features,
        }
        return nearness.NearnessScale.of(sides, self._held_out.features, self._directions)

    def _recognition(self, draw: Pipeline, adapted: Images) -> dict[str, Any] | None:
        """Whether the classes that were asked for are recognised; None where none can be asked for,
        or too few are held out.
        """
        if self._recogniser is None:
            return None
        recogniser, labels = self._recogniser
        seeds = PERIODIC_EVALUATION.take(len(adapted))
        asked = draw.latent.condition(seeds)["label"].argmax(1)
        found = recogniser.recognition((adapted.features, asked), (self._held_out.features, labels))
        return None if found is None else found.to_json()

    def _rounded_base(self, out: Path, generator: Generator) -> dict[str, float]:
        """How far what was trained is from what ships; GateFailed when it is too far for the
        evaluations to speak of it.
        """
        from ...evidence.distances import PairedPsnr, squared_error
        from ...training.adapt import site
        from ...training.digests import description
        from .merge import views

        precision, about = self.plan.choices.precision, description(out)
        trained, ships = views(out, about, generator, precision, VIEW_IMAGES)
        alike = PairedPsnr.of(squared_error(trained, ships))
        if not alike.pooled_db >= VIEW_DB:
            site.reject(out)
            raise GateFailed(
                "E-BASE-VIEW",
                f"images made on the {precision} base are {alike.pooled_db:.1f} dB from those of "
                f"the generator that ships; required are {VIEW_DB:g} dB",
                path=out,
                hint="use --base fp32",
            )
        return {
            "psnr_db": min(alike.pooled_db, 200.0),
            "max_abs": float(np.abs(trained - ships).max()),
            "images": VIEW_IMAGES,
        }

    def _show(self, shown: dict[str, np.ndarray]) -> None:
        """pictures.safetensors, and from it the same seeds over time and the curves of the
        evaluations.
        """
        from safetensors.numpy import save

        from ...training.digests import keep

        drawn = {name: np.ascontiguousarray(pixels) for name, pixels in shown.items()}
        keep(self.run, {PICTURES: save(drawn)})
        steps = sorted(
            (name for name in shown if name.startswith("step ")),
            key=lambda name: int(name.split()[1]),
        )
        rows = [(name, shown[name]) for name in (["base"] if "base" in shown else []) + steps]
        photos = _spaced(self._held_out.pixels)
        save_png(self.run / "timeline.png", timeline(rows, photos, KEPT_PICTURES_EACH))
        save_png(
            self.run / "curves.png",
            curves(self.watch.looks, self.watch.rule.limits, self.watch.decision.best),
        )

    def _keep(self, trainer: Trainer) -> None:
        """The averages of now as what the run leaves."""
        from ...training import checkpoint
        from ...training.adapt import site
        from ...training.digests import keep
        from ...training.loop import shipped
        from ...training.record import averages_in

        if not self.plan.choices.rank:
            keep(self.run, {checkpoint.WEIGHTS: checkpoint.to_bytes(shipped(trainer))})
            return
        if not (self.run / site.BASE).is_file():
            site.write_base(self.run, self.plan.base_weights)
        adapted = cast("Adapted", trainer.generator)
        with averages_in(trainer):
            site.write(self.run, adapted.adapter(self.plan.base_sha256), adapted.measured())

    def _write(self) -> None:
        from ...training.digests import keep

        keep(self.run, {FILE: to_json(self.to_json())})

    def _drawn(self, draw: Pipeline, count: int) -> Images:
        parts = [to_uint8(draw(PERIODIC_EVALUATION.take(64, k))) for k in range(0, count, 64)]
        return _images(self._network, np.concatenate(parts), lambda _: None)


def _images(network: FeatureNetwork, pixels: np.ndarray, advance: Advance) -> Images:
    """Pixels with their features."""
    parts = []
    for k in range(0, len(pixels), 64):
        parts.append(network(pixels[k : k + 64]))
        advance(len(parts[-1]))
    return Images(pixels, np.concatenate(parts))


def _recogniser(
    plan: FinetunePlan, seen: Images, train: Photos, held_out: Photos
) -> tuple[Recogniser, np.ndarray] | None:
    """Of the training photos' classes, and the held-out photos' labels by the same numbers; None
    where the generator draws no classes.
    """
    from ...training.recognition import Recogniser, numbered

    if not plan.base.config.classes or len(train.classes) < 2:
        return None
    labels = numbered(held_out.classes, held_out.labels, train.classes)
    return Recogniser(seen.features, train.labels, len(train.classes)), labels


def _kept(run: Path) -> Watch:
    """What looks.json has. TrustError where it is not what was written, InputError for another
    file.
    """
    from ...training.digests import hold

    hold(run, FILE)
    kept = read_json(run / FILE)
    return Watch.from_json(kept.get("watch", {}) if isinstance(kept, dict) else {})


def pictures(run: Path) -> dict[str, np.ndarray]:
    """What a run keeps of its images: "base", "adapted", "photos", "step 120"; empty where it has
    none yet.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from ...training.digests import hold

    if not (run / PICTURES).is_file():
        return {}
    hold(run, PICTURES)
    try:
        kept: dict[str, np.ndarray] = load(read_bytes(run / PICTURES, PICTURE_BYTES))
    except SafetensorError as error:
        raise InputError(
            "E-ST-HEADER", f"not a safetensors file: {error}", path=run / PICTURES
        ) from error
    return kept


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


def ratio_text(interval: dict[str, float] | None) -> str:
    """A ratio of distances, as a table shows it."""
    return (
        "not told: the base's cannot be told from zero"
        if interval is None
        else interval_text(Interval(**interval))
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
        else "not measurably nearer to your photos than"
    )
    return (
        f"W-TUNE-NO-GAIN: what it draws is {than} what the base draws: train with more --steps, "
        "or look at timeline.png"
    )


def _spaced(photos: np.ndarray) -> np.ndarray:
    """KEPT_PICTURES of them."""
    return photos[nearness.spaced(len(photos), KEPT_PICTURES)]


def interval_text(interval: Interval) -> str:
    """A value with its interval, as a table shows it."""
    return f"{interval.value:.3g} ({interval.low:.3g} to {interval.high:.3g})"
