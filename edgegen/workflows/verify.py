"""Verify that a bundle is what was exported, and that its evidence holds on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..core.progress import Listener, silent
from ..core.reader import Places
from ..errors import GateFailed, RuntimeMissing, UsageError
from ..export.packages import absent
from .bundles import read_bundle, runtimes_of
from .context import Context, cores
from .executor import insist
from .limits import check_numbers

if TYPE_CHECKING:
    from ..core.bundle import Bundle
    from ..evidence.golden_images import Alike
    from ..evidence.reference import Reference
    from ..evidence.terms import Terms
    from .export.prove import Proof
    from .recheck import Difference, RecordedEvidence

# settings that have no meaning unless the verdict is recomputed
OF_EVIDENCE = frozenset(
    {
        "feature_weights", "second_judge", "fid_budget", "min_psnr_db", "max_ruined", "max_moved",
        "max_apart", "bench", "fresh_seeds", "reference",
    }
)  # fmt: skip
SHOWN = 5  # differing figures that the message names


@dataclass(frozen=True)
class VerifySettings:
    """Say how much is checked beyond files and signature, and what executes it."""

    # files: nothing is recomputed; images: the images kept at the export must come out again (no
    # torch); evidence: the verdict is recomputed
    extent: Literal["evidence", "images", "files"] = "evidence"
    runtimes: Sequence[str] | None = None  # None: every runtime of the bundle
    threads: int = 0  # CPU threads; 0 takes all cores
    feature_weights: Path | None = None  # weights file of a feature network that no package brings
    # a second network that must agree: "open-nsfw", or a weight file; None: the evidence's own
    second_judge: str | Path | None = None
    public_key: Places = None  # refuse a bundle that no owner of these keys signed
    trust_engines: bool = False  # execute GPU engines that no signature vouches for
    allow_cpu: bool = False  # let the CPU execute what cannot run as asked
    least_release: int | None = None  # refuse what was signed as an older release
    # the limits of the images are set by whoever verifies, never by the bundle
    fid_budget: float = 0.02  # largest relative change of the Frechet distance, up or down
    min_psnr_db: float = 35.0  # least PSNR in dB to full precision
    max_ruined: float = 0.002  # largest share of images that anybody can tell from full precision
    max_moved: float = 0.05  # mean square that features move, over that between two seeds
    max_apart: float = 0.005  # squared distance of the two sets, over the same
    # the distance to the reference need not be counted, and decides nothing if it is
    no_reference: bool = False
    bench: bool = False  # compare the speeds of the manifest with those of this machine too
    fresh_seeds: bool = False  # judge images of seeds that the operating system draws
    # photos, or a file of their statistics, to judge against too; None: only the bundle's own
    reference: Path | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for a setting that this extent cannot check, so that nobody believes it
        checked.
        """
        check_numbers(self)
        if self.extent == "evidence":
            return
        for one in fields(self):
            if one.name in OF_EVIDENCE and getattr(self, one.name) != one.default:
                raise UsageError(
                    "E-USAGE",
                    f"--{one.name.removesuffix('_db').replace('_', '-')} is about the evidence, "
                    f"but only {self.extent} are checked",
                    hint=f"leave out --{self.extent}-only",
                )

    def terms(self, said: Terms) -> Terms:
        """Return these limits on as many pairs as the evidence was allowed."""
        return type(said)(
            self.fid_budget,
            said.maximum,
            self.min_psnr_db,
            self.max_ruined,
            self.max_moved,
            self.max_apart,
            not self.no_reference,
            said.pixels,
        )


@dataclass(frozen=True)
class VerifyResult:
    """Hold what was checked; `proof` or `images` has what was recomputed, if anything was."""

    bundle: str
    files: int  # number of listed files, all as they were exported
    is_signed: bool  # whether there is a signature, checked or not
    signed_by: str | None  # fingerprint of the key that the signature was checked with
    release: int | None = None  # the release number that was signed
    proof: Proof | None = None
    # change of the distance here minus the manifest's, by runtime
    drift: Mapping[str, float] = field(default_factory=dict)
    is_bench: bool = False  # whether speeds were compared with the manifest's too
    differences: Sequence[Difference] = ()  # figures of the manifest that differ here
    is_older: bool = False  # whether the evidence is of an older edgegen that had fewer gates
    images: Sequence[Alike] | None = None
    seeds: range = range(0)  # seeds of the images
    # runtimes that made no images, with the reason
    skipped: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the document that `edgegen verify --json` prints, without its outer frame."""
        found: dict[str, Any] = {
            "bundle": self.bundle,
            "files": self.files,
            "signed_by": self.signed_by,
            "release": self.release,
        }
        if self.images is not None:
            alike = {one.name: one.to_json() for one in self.images}
            found |= {"skipped": dict(self.skipped), "images": alike}
        if self.proof is not None:
            found |= {
                "drift": dict(self.drift),
                "differences": [one.to_json() for one in self.differences],
                **self.proof.to_json(),
            }
        return found


def verify_bundle(
    bundle: str | Path, settings: VerifySettings | None = None, listen: Listener = silent
) -> VerifyResult:
    """Check every file, generate the same seeds again, and compare the recomputed verdict with the
    manifest's.

    Raises TrustError for files that are not those of the export, and GateFailed, with the
    VerifyResult as its `result`, if this machine makes other images or the evidence does not hold
    on it.
    """
    settings = settings or VerifySettings()
    opened = read_bundle(bundle, settings.public_key, settings.least_release)
    result = VerifyResult(
        str(bundle),
        len(opened.manifest.files),
        opened.is_signed,
        opened.signed_by,
        None if opened.signed is None else opened.signed.release,
    )
    if settings.extent == "files":
        return result
    names = runtimes_of(opened, settings.runtimes)
    if settings.extent == "images":
        return _images(opened, result, names, settings, listen)
    if why := absent("torch", "train"):
        raise RuntimeMissing(
            "E-BACKEND",
            f"checking the evidence needs the feature network: {why}",
            hint="or add --images-only",
        )
    # without named runtimes, all are checked, and the evidence says which ones the stand-in
    # executed
    if settings.runtimes:
        insist(names, settings.allow_cpu, listen)
    return _evidence(opened, result, names, settings, listen)


def _images(
    bundle: Bundle,
    result: VerifyResult,
    names: list[str],
    settings: VerifySettings,
    listen: Listener,
) -> VerifyResult:
    from . import golden_check

    kept = golden_check.kept_images(bundle)
    alike, skipped = golden_check.repeated(
        bundle, kept, names, settings.threads or cores(), settings.trust_engines, listen
    )
    result = replace(result, images=alike, seeds=kept.seeds, skipped=skipped)
    if wrong := [one.name for one in alike if not one.same]:
        raise _failed(
            result,
            "E-PARITY",
            f"this machine makes other images than the export did: {', '.join(wrong)}",
        )
    return result


def _evidence(
    bundle: Bundle,
    result: VerifyResult,
    names: list[str],
    settings: VerifySettings,
    listen: Listener,
) -> VerifyResult:
    from ..core.seeds import FRESH_EVIDENCE
    from ..evidence.terms import ERROR, Trial
    from .export.prove import prove
    from .recheck import recorded
    from .second_judges import second_judge, second_judge_again

    said = recorded(bundle)
    asked = settings.terms(said.terms)
    context = replace(
        Context.of(settings.threads, settings.feature_weights, listen),
        second_judge=second_judge_again(said.second, settings.second_judge),
    )
    # a second judge that the evidence lacks is a requirement of whoever verifies
    added = second_judge(settings.second_judge) if said.second is None else None
    if settings.reference is None:
        is_kept = said.terms.is_distance_counted or not asked.is_distance_counted
        _insist_on_distance(result, is_kept)
    trials = {name: said.trials[name] for name in names}
    if settings.fresh_seeds:
        first = FRESH_EVIDENCE.drawn(asked.pixel_pairs)[0]
        trials = dict.fromkeys(names, Trial(first, 1 - ERROR))
    else:
        proof = prove(bundle, trials, said.terms, context, settings.trust_engines)
        result = _held(bundle, result, said, proof)
    against = _reference(bundle, settings, listen)
    if added is not None:
        context = replace(context, second_judge=added)
    if settings.fresh_seeds or against is not None or added is not None or asked != said.terms:
        proof = prove(bundle, trials, asked, context, settings.trust_engines, against)
    result = replace(result, proof=proof, is_older=not said.is_whole)
    if settings.bench:
        result = _held_speeds(result, said, proof)
    counted = all(judged.judgement.comparison.is_counted for judged in proof.judged)
    _insist_on_distance(result, counted or not asked.is_distance_counted)
    if not proof.passed:
        verdicts = "; ".join(str(j) for j in proof.judged if not j.passed)
        raise _failed(result, "E-GATE", f"the evidence does not hold on this machine: {verdicts}")
    return result


def _insist_on_distance(result: VerifyResult, is_kept: bool) -> None:
    """Raise GateFailed if the distance to a reference should be counted and is not."""
    if not is_kept:
        raise _failed(
            result,
            "E-GATE",
            "the distance to a reference is not counted in this bundle's evidence",
            hint="add --no-reference to verify without it, or --reference PHOTOS to judge "
            "against your photos",
        )


def _reference(bundle: Bundle, settings: VerifySettings, listen: Listener) -> Reference | None:
    """Return the statistics of the photos that the verifier gave, or None without photos."""
    if settings.reference is None:
        return None
    from ..evidence.golden_images import FULL
    from .golden_check import kept_images
    from .photo_sets import reference_at

    size = kept_images(bundle).sets[FULL].shape[1]
    weights = settings.feature_weights
    return reference_at(settings.reference, "the verifier's photos", size, weights, listen)


def _held(
    bundle: Bundle, result: VerifyResult, said: RecordedEvidence, proof: Proof
) -> VerifyResult:
    """Return the result with every figure of the manifest that differs here. Raises GateFailed if
    one does.
    """
    from .recheck import differences, is_same_machine

    found, drift = [], {}
    for judged in proof.judged:
        name, recorded = judged.name, said.evidence[judged.name]
        same = said.is_whole and is_same_machine(bundle, name)
        found += differences(name, recorded, judged.to_json(), same)
        if judged.comparison.verdict.change.finite:
            drift[name] = judged.comparison.verdict.change.value - recorded["change"]["value"]
    result = replace(result, proof=proof, drift=drift, is_older=not said.is_whole)
    return _without(found, result)


def _held_speeds(result: VerifyResult, said: RecordedEvidence, proof: Proof) -> VerifyResult:
    """Return the result with every speed of the manifest that differs here. Raises GateFailed if
    one does.
    """
    from .recheck import slower_or_faster

    found = [
        one
        for judged in proof.judged
        for one in slower_or_faster(judged.name, said.evidence[judged.name], judged.speed)
    ]
    return _without(found, replace(result, proof=proof, is_bench=True))


def _without(found: Sequence[Difference], result: VerifyResult) -> VerifyResult:
    """Return the result. Raises GateFailed if figures of the manifest differ here."""
    result = replace(result, differences=found)
    if found:
        raise _failed(
            result,
            "E-GATE",
            "figures in the manifest differ from those measured on this machine: "
            + "; ".join(map(str, found[:SHOWN])),
        )
    return result


def _failed(result: VerifyResult, code: str, what: str, hint: str = "") -> GateFailed:
    failed = GateFailed(code, what, path=result.bundle, hint=hint)
    failed.result = result
    return failed
