"""Export a trained generator to a proven INT8 bundle: the whole export, step by step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...calibrate.choose import fastest, kinds, multiplications
from ...core.bundle import MANIFEST, Bundle, write_manifest
from ...core.files import check_target
from ...core.plan import Plan
from ...core.progress import Listener, silent
from ...core.runtime import Runtime
from ...core.verdict import State, Verdict, together
from ...errors import GateFailed, RuntimeMissing, UsageError
from ...evidence.terms import FEWEST_PAIRS, Terms
from ...export import STAND_IN, qdq, runtime
from ...export import onnx as onnx_files
from ...machine.resident import free_bytes, peak_bytes
from ..byte_sizes import bytes_in_words, bytes_of
from ..context import Context
from ..durations import seconds_of
from ..limits import MANY, Limit, check_numbers
from ..sampling_choices import SamplingChoices, chosen
from ..source_choices import AS_IT_IS, SourceChoices
from ..torch_threads import torch_threads
from .allowance import Stopwatch, Work, allowance, within
from .attempts import Attempts
from .beginning import write_beginning
from .blame import LayerBehind, behind_failures
from .build import Build, build_runtimes, describe
from .calibration import calibrate_graphs, weight_bits_of
from .disk_space import check_disk, disk_need
from .evidence_files import write_evidence
from .feeds import BATCH, Feeds, Files, Trajectories
from .fp32 import Calls, fp32_models, torch_parity, trajectory_calls
from .judges import adapter_evidence, unnamed_judges, with_judges
from .measurements import FullPrecision, SearchSubject
from .memory_budget import memory_shares
from .plans import check_last_steps, check_plan, with_ranges
from .prices import measured_prices
from .protect import Protect
from .prove import Proof
from .publishing import published, rejected
from .search import PlanLadder, Search
from .search_settings import SearchSettings
from .step_back import prove_or_step_back

if TYPE_CHECKING:
    from onnx import ModelProto

    from ..generators import LoadedGenerator


@dataclass(frozen=True)
class ExportSettings:
    """The settings of an export. Raises UsageError for settings that exclude each other."""

    runtimes: tuple[str, ...] = ("onnxruntime",)
    fid_budget: float = 0.02  # largest relative change of the Frechet distance, either way
    min_psnr_db: float = 35.0  # of the images against full precision, at least
    max_ruined: float = 0.002  # largest share of images that anybody would tell from full precision
    max_moved: float = (
        0.05  # largest mean square by which features move, over that from seed to seed
    )
    max_apart: float = 0.005  # largest squared distance of the two sets, over the same
    # whether the distance to the reference decides nothing: there is none, or it is of other photos
    no_reference: bool = False
    time: str | None = None  # the whole export may take this: 45m, 2h, 90s
    memory: str | None = None  # it may have this resident: 8GB, 500MB; None: half of what is free
    max_images: int = 4000  # pairs at most before a verdict is undecided; the search looks at half
    plan: Path | None = None  # a plan.json to use; no plan is searched then
    feeds: Path | None = None  # folder to calibrate on; None: the sampler's trajectories
    calibration_samples: int = 128  # seeds whose trajectories are calibrated on
    # such as "2,5" of the grid or mask PNG `regions`: layers whose rounding damages these most stay
    # in full precision
    protect_regions: str | None = None
    regions: str = "3x3"
    steps: int | None = None  # of the sampler that ships; None: as many as the generator has
    solver: str | None = None  # of that sampler, and known to the family; None: its own
    last_steps: int | None = None  # how many of the steps a plan may leave in FP32; None: 1
    threads: int = 0  # CPU threads; 0 takes all cores
    feature_weights: Path | None = None  # of a feature network that no package holds
    # photos, or a file of their statistics, to judge against; None: those the generator came with
    reference: Path | None = None
    source: SourceChoices = AS_IT_IS  # said of a generator that another program made
    # a second network that has to agree: "open-nsfw", or a weight file; None: none
    second_judge: str | Path | None = None
    overwrite: bool = False  # replace an earlier bundle

    def __post_init__(self) -> None:
        check_numbers(self, steps=Limit(1, 10**4), max_images=Limit(FEWEST_PAIRS, MANY))
        if self.time is not None:
            seconds_of(self.time)
        if self.memory is not None:
            bytes_of(self.memory)
        if self.reference is not None and self.no_reference:
            raise UsageError("E-USAGE", "--reference and --no-reference exclude each other")
        if self.plan and self.protect_regions is not None:
            raise UsageError(
                "E-USAGE",
                "--protect-regions changes the search for a plan, but --plan skips that search",
            )
        if self.plan and self.last_steps is not None:
            raise UsageError(
                "E-USAGE",
                "--last-steps changes the search for a plan, but --plan skips that search",
                hint='"last" in the plan says how many steps run in FP32',
            )

    @property
    def terms(self) -> Terms:
        """Return the terms to which a verdict holds the images."""
        return Terms(
            self.fid_budget,
            self.max_images,
            self.min_psnr_db,
            self.max_ruined,
            self.max_moved,
            self.max_apart,
            not self.no_reference,
        )

    @property
    def protect(self) -> Protect | None:
        return None if self.protect_regions is None else Protect(self.protect_regions, self.regions)


@dataclass(frozen=True)
class ExportResult:
    """A bundle, and the evidence with which it was published or rejected."""

    out: Path
    proof: Proof
    # for each runtime whose images were ruined: the layers behind them, the worst first
    behind: Mapping[str, Sequence[LayerBehind]] = field(default_factory=dict)

    @property
    def state(self) -> State:
        """Return the state of all gates of all runtimes together."""
        return together(judged.judgement.state for judged in self.proof.judged)

    @property
    def verdict(self) -> Verdict | None:
        """Return the verdict on the distance of the runtime that is farthest from passing; None if
        no distance to a reference is counted.
        """
        order = ("outside", "undecided", "within")
        counted = [j.comparison.verdict for j in self.proof.judged if j.comparison.is_counted]
        return min(
            counted,
            key=lambda verdict: (order.index(verdict.state), -abs(verdict.change.value)),
            default=None,
        )

    def to_json(self) -> dict[str, Any]:
        behind = {name: [one.to_json() for one in layers] for name, layers in self.behind.items()}
        more = {"behind_ruined": behind} if behind else {}
        return {"out": str(self.out), **self.proof.to_json(), **more}


def export_bundle(
    generator: LoadedGenerator | str | Path,
    out: str | Path,
    settings: ExportSettings | None = None,
    listen: Listener = silent,
) -> ExportResult:
    """Calibrate, quantize, build for each runtime, prove the images, and publish the bundle `out`.

    generator: what load_generator returned, or what it takes. The folder appears whole or not at
    all. Raises GateFailed, with the ExportResult as its `result` and the files under rejected/, if
    the images are not as good; RuntimeMissing if a runtime cannot build here; Busy while another
    export writes the folder.
    """
    from ..generators import loaded
    from ..second_judges import second_judge

    settings, out = settings or ExportSettings(), Path(out)
    watch = Stopwatch(None if settings.time is None else seconds_of(settings.time))
    memory = free_bytes() // 2 if settings.memory is None else bytes_of(settings.memory)
    context = Context.of(settings.threads, settings.feature_weights, listen)
    terms = settings.terms  # refused before any work
    terms.check_enough()
    check_target(out, MANIFEST, settings.overwrite)
    targets = export_targets(settings.runtimes)
    context = replace(context, second_judge=second_judge(settings.second_judge))
    with published(out, settings.overwrite) as folder, torch_threads(context.threads):
        source = loaded(generator, listen, settings.source)
        check_disk(disk_need(source, targets, context.threads), out)
        search = SearchSettings(terms)
        if settings.last_steps is not None:
            search = replace(search, last_steps=settings.last_steps)
        request = _Request(source, settings, search, targets, context, folder, out, watch, memory)
        try:
            return _export(request)
        except GateFailed as error:
            raise rejected(folder, out, error) from error


@dataclass(frozen=True)
class _Request:
    """The parts that one export works with."""

    source: LoadedGenerator
    settings: ExportSettings
    search: SearchSettings
    targets: Sequence[Runtime]
    context: Context
    folder: Path
    out: Path
    watch: Stopwatch
    memory: int  # bytes that may be resident
    # the expected time, if --time was given
    expected: Mapping[str, Any] = field(default_factory=dict)

    @property
    def terms(self) -> Terms:
        return self.search.terms


def _export(request: _Request) -> ExportResult:
    """Export in steps: each reads what the steps before it wrote; the manifest is written last."""
    source, settings, folder = request.source, request.settings, request.folder
    context, watch = request.context, request.watch
    # what would make the long work useless is refused before it
    adapter = adapter_evidence(source)
    source = with_judges(source, settings.reference, request.terms, folder / "evidence", context)
    if settings.protect is not None:
        settings.protect.numbers(source)
    choices = SamplingChoices(settings.steps, solver=settings.solver)
    sampled = replace(source, generator=chosen(source, choices)[0])
    given = None if settings.plan is None else Plan.read(settings.plan)

    with watch.step("FP32 graphs"):
        request, models, calls, parity = _full_precision(sampled, given, request)
    request = _in_time(request, sampled, models, calls)
    context = request.context

    feeds = _feeds(sampled, request.settings, context)
    with watch.step("calibration"):
        bits = weight_bits_of([STAND_IN, *(target.name for target in request.targets)])
        calibration = calibrate_graphs(sampled, models, feeds, context, weight_bits=bits)
        base = calibration.plan
        protected: Mapping[str, Any] = {}
        if settings.protect is not None:
            base, protected = settings.protect(
                sampled, calibration.models, base, request.targets, context
            )
    if given is None:
        subject = SearchSubject(sampled, models, calibration.models, base)
        with watch.step("search"):
            plans, found = _searched(subject, request)
    else:
        taken = with_ranges(given, base, context.listen)
        plans, found = {t.name: PlanLadder((taken,), 0) for t in request.targets}, {"search": {}}

    with watch.step("INT8 files"):
        built = build_runtimes(
            request.targets, calibration.models, plans, calls, folder, context.listen
        )
    begins = write_beginning(sampled, folder, context.threads, context.listen)
    description = describe(
        sampled, models, built, calibration.coverage, feeds, parity, begins.start
    )
    more = {"protected": protected, "text_encoder": begins.text}
    description["calibration"] |= {**found, **{name: said for name, said in more.items() if said}}
    write_manifest(folder, description)
    build = Build(Bundle.open(folder, made_here=True), calibration.models, plans, calls)
    attempts = Attempts(source.about, request.out, unnamed_judges(request.terms, context))
    with watch.step("verdict"):
        proof, bundle = prove_or_step_back(
            build, request.targets, request.terms, context, attempts, watch
        )
    write_evidence(bundle, proof, {**adapter, **_spent(request, watch, attempts)})
    if proof.passed:
        return ExportResult(request.out, proof)
    raise _failed(replace(build, bundle=bundle), request, proof)


def _spent(request: _Request, watch: Stopwatch, attempts: Attempts) -> dict[str, Any]:
    """Return for the evidence what the export took beside what was expected, and note it."""
    peak, expected = peak_bytes(), request.expected
    request.context.listen.note(f"took {watch}; {bytes_in_words(peak)} of memory at most")
    return {
        "attempts": attempts.to_json(),
        "time": {**expected, "took_s": watch.to_json()},
        "memory": {"budget_bytes": request.memory, "peak_bytes": peak},
    }


def _full_precision(
    source: LoadedGenerator, given: Plan | None, request: _Request
) -> tuple[_Request, dict[str, ModelProto], Calls, dict[str, float]]:
    """Write the FP32 graphs. Return the request, cut to what its memory is enough for; the graphs;
    the calls that trajectories make of them; and how near they are to torch.

    UsageError for a given plan that does not fit the graphs.
    """
    models, file = _fp32(source, request), request.settings.plan
    memory = memory_shares(request.memory, models, request.context.threads)
    request = replace(request, context=replace(request.context, memory=memory))
    if given is not None and file is not None:
        check_plan(given, models, file)
    for name, model in models.items():
        onnx_files.write(model, request.folder / "graphs" / f"{name}.onnx")
    calls = trajectory_calls(source, models, memory.images)
    if given is not None and file is not None:
        check_last_steps(given, calls, file)
    parity = torch_parity(source, calls, request.folder / "graphs", request.context.threads)
    return request, models, calls, parity


def _fp32(source: LoadedGenerator, request: _Request) -> dict[str, ModelProto]:
    """Return the FP32 ONNX models by graph. InputError if nothing in them could be INT8 for a
    runtime.
    """
    models = fp32_models(source, request.context.listen)
    most = fastest(models)
    for target in request.targets:
        qdq.check_any(models, most, target.name, target.dialect)
    return models


def _in_time(
    request: _Request, source: LoadedGenerator, models: Mapping[str, ModelProto], calls: Calls
) -> _Request:
    """Return the request, cut to what its time is enough for. UsageError if that is nothing."""
    settings, left = request.settings, request.watch.left
    if math.isinf(left):
        return request
    counts = [len(multiplications(model)) for model in models.values()]
    work = Work(
        len([count for count in counts if count]),
        sum(counts),
        sum(len(set(kinds(model).values())) for model in models.values()),
        sum(map(len, calls.values())),
        len(request.targets),
        settings.calibration_samples,
        settings.max_images,
        request.terms.fewest,
        request.context.threads,
    )
    subject = SearchSubject(source, models, {}, Plan((), {}))
    full = FullPrecision(subject, request.search, request.context)
    prices = measured_prices(full, request.targets[0])
    allowed = allowance(left, prices, work, spent=(request.watch.seconds or 0.0) - left)
    request.context.listen.note(str(allowed))
    search = replace(request.search, terms=allowed.bound(request.terms))
    return replace(
        request,
        settings=replace(settings, calibration_samples=allowed.seeds, max_images=allowed.pairs),
        search=within(search, allowed, prices, work),
        expected={"allowed_s": request.watch.seconds, "expected_s": dict(allowed.expected)},
    )


def _failed(build: Build, request: _Request, proof: Proof) -> GateFailed:
    """Return the error that says what failed and names the layers behind it."""
    failed = {j.name: j.judgement for j in proof.judged if not j.passed}
    behind, said = behind_failures(build, request.targets, failed, request.context)
    what = "; ".join(str(j) for j in proof.judged if not j.passed)
    error = GateFailed("E-GATE", what, hint=said)
    error.result = ExportResult(request.out, proof, behind)
    return error


def export_targets(names: Sequence[str]) -> list[Runtime]:
    """Return the runtimes asked for. RuntimeMissing, before any work, if one cannot build here."""
    targets = [runtime(name) for name in dict.fromkeys(names)]
    for target in [*targets, runtime(STAND_IN)]:
        if why := target.missing():
            raise RuntimeMissing("E-BACKEND", why)
    if any(target.name == "reference" for target in targets):
        raise UsageError(
            "E-RUNTIME",
            "the reference evaluator only checks the other runtimes; it is not a runtime to "
            "export for",
        )
    return targets


def _feeds(source: LoadedGenerator, settings: ExportSettings, context: Context) -> Feeds:
    listen, batch = context.listen, min(BATCH, context.memory.images)
    if settings.feeds is not None:
        return Files(settings.feeds, source.generator, listen=listen, batch=batch)
    return Trajectories(source.generator, settings.calibration_samples, listen=listen, batch=batch)


def _searched(
    subject: SearchSubject, request: _Request
) -> tuple[Mapping[str, PlanLadder], Mapping[str, Any]]:
    """Search a plan for each runtime; return what was tried, and its cost, for the manifest."""
    search = Search(subject, request.search, request.context)
    plans = {target.name: search.plan(target) for target in request.targets}
    bills = {name: bill.to_json() for name, bill in search.bills.items()}
    return plans, {"search": search.trail, "bills": bills}
