"""What bench.json holds: schema 1, as pydantic checks it wherever it comes from. (numpy only)

The page, the tables and the gates are made from this document and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..core.files import is_version, parse_json, to_json
from ..core.reader import read_bytes
from ..errors import InputError

FILE = "bench.json"
SCHEMA: Literal[1] = 1
DOCUMENT_BYTES = 64 << 20
REFERENCE = "the other rows of its bundle are compared with it"  # why of that row
FULL = "fp32"  # precision of the rows that others are compared with
Word = Annotated[str, Field(min_length=1, max_length=300)]
Sentence = Annotated[str, Field(max_length=4000)]
Ms = Annotated[float, Field(ge=0, le=1e12)]
Count = Annotated[int, Field(ge=0, le=10**12)]
Seed = Annotated[int, Field(ge=0, lt=1 << 53)]  # what a page's own numbers hold exactly
Some = Annotated[int, Field(ge=1, le=10**9)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Decibel = Annotated[float, Field(ge=-1000, le=1000)]
RowState = Literal["within", "outside", "undecided", "failed", "skipped"]


class Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Percentiles(Checked):
    """Milliseconds; null where the rounds were too few to resolve one. p50_low, p50_high: where
    the median of all rounds lies, at 95 %.
    """

    p50: Ms
    p50_low: Ms
    p50_high: Ms
    p90: Ms | None
    p99: Ms | None
    p999: Ms | None


class StagePart(Checked):
    """One stage of the round with the median time."""

    stage: Word
    calls: Count
    cpu_ms: Ms
    wall_ms: Ms


class RawSamples(Checked):
    """Milliseconds a batch, round by round."""

    cpu_ms: Annotated[list[Ms], Field(min_length=1, max_length=10**6)]
    wall_ms: Annotated[list[Ms], Field(min_length=1, max_length=10**6)]


class BatchLatency(Checked):
    """From seed to images of 8 bits, of one batch."""

    batch: Some
    threads: Some
    rounds: Some
    cpu: Percentiles
    wall: Percentiles
    images_per_second: Ms
    unstable: bool
    # fastest FP32 of the bundle over this, round by round: the median and its interval; null where
    # one of them is unstable
    speed: Ms | None
    speed_low: Ms | None
    speed_high: Ms | None
    stages: Annotated[list[StagePart], Field(max_length=100)]
    samples: RawSamples


class EnergyFound(Checked):
    """Of the whole processor or GPU, with what it takes when idle, and for whatever else ran."""

    meter: Word
    joules_an_image: Ms
    watts: Ms
    images: Some


class PeakMemory(Checked):
    """Of the process, once a batch of that size was made."""

    batch: Some
    bytes: Count


class OwnProcess(Checked):
    """What a process of its own found: loading, the first image, and the most memory."""

    load_ms: Ms
    first_cpu_ms: Ms
    first_wall_ms: Ms
    peak: Annotated[list[PeakMemory], Field(max_length=10)]


class WorstClass(Checked):
    name: Word
    pairs: Count
    psnr_db: Decibel | None  # null: no pixel differs
    state: Literal["within", "outside", "undecided"]


class WorstSeed(Checked):
    seed: Seed
    psnr_db: Decibel | None
    ruined: bool


class PairsHere(Checked):
    """Pairs of equal seeds that were made here. A PSNR of null says that no pixel differs; an end
    of its interval of null, that it has none.
    """

    against: Word
    pairs: Some
    first_seed: Seed
    level: Share
    psnr_db: Decibel | None
    psnr_low_db: Decibel | None
    psnr_high_db: Decibel | None
    psnr_limit_db: Decibel
    psnr_state: Literal["within", "outside", "undecided"]
    worst_seed: Seed
    worst_psnr_db: Decibel | None
    ruined: Count
    ruined_at_most: Share
    ruined_limit: Share
    ruined_state: Literal["within", "outside", "undecided"]
    ruined_needs: Some  # pairs without a ruined one that show the limit
    worst_class: WorstClass | None
    same_pixels: Share  # within one level of 255
    worst_pairs: Annotated[list[WorstSeed], Field(max_length=16)]


class HeldVerdict(Checked):
    """What the bundle's own evidence says; not measured here. change: of the distance, null where
    it is not counted.
    """

    state: Literal["within", "outside", "undecided"]
    change: float | None
    change_low: float | None
    change_high: float | None
    features: Word | None
    pairs: Count
    signed_by: Annotated[str, Field(max_length=300)] | None


class Strip(Checked):
    """A picture file of the report: images of one size, row by row."""

    file: Annotated[str, Field(pattern=r"^pictures/[a-z]{1,20}-[0-9]{1,4}\.png$")]
    rows: Annotated[int, Field(ge=1, le=16)]
    columns: Annotated[int, Field(ge=1, le=16)]
    height: Annotated[int, Field(ge=1, le=1024)]
    width: Annotated[int, Field(ge=1, le=1024)]
    reduced: Annotated[int, Field(ge=1, le=1024)]  # how many pixels a side one pixel stands for


class BenchedBundle(Checked):
    """One without hashes was to be made for the bench, and is not there: its rows say why."""

    name: Word
    family: Word
    source: Word
    edgegen: Word
    manifest_sha256: Digest | None
    full_sha256: Digest | None  # of its full precision
    signed_by: Annotated[str, Field(max_length=300)] | None
    image: Annotated[list[Some], Field(min_length=2, max_length=2)] | None  # height and width
    reference: Word | None  # row that the others are compared with
    prompt: Sentence | None  # that the text encoder was timed with
    seeds: Strip | None
    steps: Some | None = None  # of its sampler


class BenchRow(Checked):
    """One candidate: a bundle on a runtime in a precision."""

    bundle: Word
    runtime: Word
    precision: Literal["int8", "fp32", "fp16"]
    state: RowState
    why: Sentence
    version: Word
    device: Word
    placement: dict[Word, dict[Word, Count]]
    latency: Annotated[list[BatchLatency], Field(max_length=10)]
    own: OwnProcess | None
    quality: PairsHere | None
    verdict: HeldVerdict | None
    command: Sentence
    seeds: Strip | None
    worst: Strip | None
    energy: EnergyFound | None = None
    peer: Word | None = None  # whose INT8 it is, where that is not edgegen's

    @property
    def label(self) -> str:
        """Of the candidate within its bundle, such as "openvino INT8"."""
        by = f"{self.peer} on " if self.peer else ""
        return f"{by}{self.runtime} {self.precision.upper()}"

    @property
    def name(self) -> str:
        return f"{self.bundle}: {self.label}"

    @property
    def first(self) -> BatchLatency | None:
        """Of the smallest batch."""
        return self.latency[0] if self.latency else None


class GateFound(Checked):
    """What one gate says of one row."""

    row: Word
    gate: Word
    limit: Word
    found: Sentence
    passed: bool


class BenchDocument(Checked):
    schema_version: Literal[1]
    kind: Literal["edgegen bench"]
    edgegen: Word
    made: Word
    command: Sentence
    machine: dict[Word, Sentence]
    versions: dict[Word, Word]
    compared_by: Literal["cpu", "wall"]
    bundles: Annotated[list[BenchedBundle], Field(min_length=1, max_length=1000)]
    rows: Annotated[list[BenchRow], Field(min_length=1, max_length=10_000)]
    gates: Annotated[list[GateFound], Field(max_length=100_000)]

    @model_validator(mode="after")
    def _fits_together(self) -> BenchDocument:
        names = [bundle.name for bundle in self.bundles]
        if len(set(names)) != len(names):
            raise ValueError("two bundles have one name")
        if missing := {row.bundle for row in self.rows} - set(names):
            raise ValueError(f"a row is of a bundle that is not listed: {min(missing)}")
        rows = [row.name for row in self.rows]
        if len(set(rows)) != len(rows):
            raise ValueError("two rows are one candidate")
        return self

    @property
    def failed_gates(self) -> list[GateFound]:
        return [gate for gate in self.gates if not gate.passed]

    def to_bytes(self) -> bytes:
        """The file."""
        return to_json(self.model_dump())

    def compared(self, latency: BatchLatency) -> Percentiles:
        """In the clock that rows are compared by."""
        return latency.cpu if self.compared_by == "cpu" else latency.wall

    def samples(self, latency: BatchLatency) -> list[float]:
        """In the same clock."""
        raw = latency.samples
        return raw.cpu_ms if self.compared_by == "cpu" else raw.wall_ms

    def bundle(self, name: str) -> BenchedBundle:
        """Of that name."""
        return next(one for one in self.bundles if one.name == name)

    def of(self, bundle: str) -> list[BenchRow]:
        """The rows of a bundle."""
        return [row for row in self.rows if row.bundle == bundle]


def read_document(folder: Path) -> BenchDocument:
    """Of a report's folder. InputError for one without, and for a file that is none."""
    path = folder / FILE
    if not path.is_file():
        raise InputError(
            "E-BENCH",
            f"the folder holds no {FILE}",
            path=folder,
            hint="name a folder that `edgegen bench --report` wrote",
        )
    data = read_bytes(path, DOCUMENT_BYTES, "E-BENCH")
    try:
        found = parse_json(data)
        version = found.get("schema_version") if isinstance(found, dict) else None
        if not is_version(version, SCHEMA):
            raise ValueError(f"its schema_version is {version!r}, this edgegen knows {SCHEMA}")
        return BenchDocument.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        what = f"{place}: {first['msg']}" if place else first["msg"]
        raise InputError("E-BENCH", f"not a usable {FILE}: {what}", path=path) from error
    except ValueError as error:
        raise InputError("E-BENCH", f"not a usable {FILE}: {error}", path=path) from error
