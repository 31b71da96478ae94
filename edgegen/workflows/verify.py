"""Is a bundle what was exported, and does its evidence hold on this machine?"""

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

# settings that mean nothing where the verdict is not recomputed
OF_EVIDENCE = frozenset(
    {
        "feature_weights", "second_judge", "fid_budget", "min_psnr_db", "max_ruined", "max_moved",
        "max_apart", "bench", "fresh_seeds", "reference",
    }
)  # fmt: skip
SHOWN = 5  # figures that are others here, named in the message


@dataclass(frozen=True)
class VerifySettings:
    """How much is checked beyond files and signature, and what executes it."""

    # files: nothing is recomputed; images: the images kept at the export come out again (no
    # torch); evidence: the verdict is recomputed
    extent: Literal["evidence", "images", "files"] = "evidence"
    runtimes: Sequence[str] | None = None  # None: every runtime of the bundle
    threads: int = 0  # CPU threads; 0 takes all cores
    feature_weights: Path | None = None  # of a network that is no package's
    # a second network that has to agree: "open-nsfw", or a weight file; None: that of the evidence
    second_judge: str | Path | None = None
    public_key: Places = None  # refuse a bundle that no owner of these keys signed
    trust_engines: bool = False  # execute GPU engines that no signature vouches for
    allow_cpu: bool = False  # let the CPU execute what cannot run as asked
    least_release: int | None = None  # refuse what was signed as an older release
    # what the images have to be: who verifies says it, never the bundle
    fid_budget: float = 0.02  # largest relative change of the Frechet distance, either way
    min_psnr_db: float = 35.0  # to full precision, that the images must reach
    max_ruined: float = 0.002  # share of images that anybody would tell from full precision
    max_moved: float = 0.05  # mean square that features move, over that from seed to seed
    max_apart: float = 0.005  # squared distance of the two sets, over the same
    # the distance to the reference need not be counted, and if it is, decides nothing
    no_reference: bool = False
    bench: bool = False  # hold the speeds of the manifest to those of this machine as well
    fresh_seeds: bool = False  # judge images of seeds that the operating system draws
    # photos, or a file of their statistics, to judge against as well; None: the bundle's own alone
    reference: Path | None = None

    def __post_init__(self) -> None:
        """UsageError for what could not be looked at: nobody may take it for checked."""
        check_numbers(self)
        if self.extent == "evidence":
            return
        for one in fields(self):
            if one.name in OF_EVIDENCE and getattr(self, one.name) != one.default:
                raise UsageError(
                    "E-USAGE",
                    f"--{one.name.removesuffix('_db').replace('_', '-')} is about the evidence, "
                    f"and {self.extent} alone are checked",
                    hint=f"leave out --{self.extent}-only",
                )

    def terms(self, said: Terms) -> Terms:
        """These limits, on as many pairs as the evidence was allowed."""
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
    """What was checked; `proof` or `images` hold what was recomputed, if anything was."""

    bundle: str
    files: int  # listed files, all as they were exported
    is_signed: bool  # whether there is a signature, checked or not
    signed_by: str | None  # fingerprint of the key that the signature was checked with
    release: int | None = None  # that was signed with it
    proof: Proof | None = None
    drift: Mapping[str, float] = field(default_factory=dict)  # change minus the manifest's
    is_bench: bool = False  # whether speeds were held to the manifest's as well
    differences: Sequence[Difference] = ()  # figures of the manifest that are others here
    is_older: bool = False  # whether the evidence is of an edgegen that had fewer gates
    images: Sequence[Alike] | None = None
    seeds: range = range(0)  # of the images
    skipped: Mapping[str, str] = field(default_factory=dict)  # runtimes that made no images, why

    def to_json(self) -> dict[str, Any]:
        """The document of `edgegen verify --json`, but for its frame."""
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
    """Check every file, generate the same seeds again, and hold the recomputed verdict to the
    manifest's.

    Raises TrustError for files that are not those of the export, GateFailed, whose `result` is the
    VerifyResult, where this machine makes other images or the evidence does not hold on it.
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
            f"recomputing needs the feature network: {why}",
            hint="or add --images-only",
        )
    # of all that a bundle is for, those that do not run here are said to be executed by the
    # stand-in
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
    # one that the evidence has not is a term of whoever verifies
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
    """GateFailed where the distance to a reference should be counted and is not."""
    if not is_kept:
        raise _failed(
            result,
            "E-GATE",
            "the distance to a reference is not counted in this bundle's evidence",
            hint="say --no-reference to go without, or --reference PHOTOS to judge against yours",
        )


def _reference(bundle: Bundle, settings: VerifySettings, listen: Listener) -> Reference | None:
    """Of the photos that whoever verifies brings."""
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
    """With every figure of the manifest that is another one here; GateFailed where there is one."""
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
    """With every speed of the manifest that is another one here; GateFailed where there is one."""
    from .recheck import slower_or_faster

    found = [
        one
        for judged in proof.judged
        for one in slower_or_faster(judged.name, said.evidence[judged.name], judged.speed)
    ]
    return _without(found, replace(result, proof=proof, is_bench=True))


def _without(found: Sequence[Difference], result: VerifyResult) -> VerifyResult:
    """The result; GateFailed where figures of the manifest are others here."""
    result = replace(result, differences=found)
    if found:
        raise _failed(
            result,
            "E-GATE",
            "the manifest says other figures than this machine finds: "
            + "; ".join(map(str, found[:SHOWN])),
        )
    return result


def _failed(result: VerifyResult, code: str, what: str, hint: str = "") -> GateFailed:
    failed = GateFailed(code, what, path=result.bundle, hint=hint)
    failed.result = result
    return failed
