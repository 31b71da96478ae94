"""Define the content of bench.json, schema 1, as pydantic checks it wherever it comes from. It
needs numpy and pydantic only.

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
# `why` of the row that the others are compared with
REFERENCE = "the other rows of its bundle are compared with it"
FULL = "fp32"  # precision of the rows that others are compared with
Word = Annotated[str, Field(min_length=1, max_length=300)]
Sentence = Annotated[str, Field(max_length=4000)]
Ms = Annotated[float, Field(ge=0, le=1e12)]
Count = Annotated[int, Field(ge=0, le=10**12)]
# the largest range that JavaScript numbers hold exactly
Seed = Annotated[int, Field(ge=0, lt=1 << 53)]
Some = Annotated[int, Field(ge=1, le=10**9)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Decibel = Annotated[float, Field(ge=-1000, le=1000)]
RowState = Literal["within", "outside", "undecided", "failed", "skipped"]


class Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Percentiles(Checked):
    """Hold milliseconds; a percentile is null if the rounds were too few to resolve it.

    `p50_low` and `p50_high` are the 95 % interval of the median of all rounds.
    """

    p50: Ms
    p50_low: Ms
    p50_high: Ms
    p90: Ms | None
    p99: Ms | None
    p999: Ms | None


class StagePart(Checked):
    """Hold one stage of the round with the median time."""

    stage: Word
    calls: Count
    cpu_ms: Ms
    wall_ms: Ms


class RawSamples(Checked):
    """Hold milliseconds for each batch, round by round."""

    cpu_ms: Annotated[list[Ms], Field(min_length=1, max_length=10**6)]
    wall_ms: Annotated[list[Ms], Field(min_length=1, max_length=10**6)]


class BatchLatency(Checked):
    """Hold the latency from seed to 8-bit images at one batch size."""

    batch: Some
    threads: Some
    rounds: Some
    cpu: Percentiles
    wall: Percentiles
    images_per_second: Ms
    unstable: bool
    # median and interval of the ratio of the bundle's fastest FP32 to this, round by round; null if
    # one of them is unstable
    speed: Ms | None
    speed_low: Ms | None
    speed_high: Ms | None
    stages: Annotated[list[StagePart], Field(max_length=100)]
    samples: RawSamples


class EnergyFound(Checked):
    """Hold the energy of the whole processor or GPU, including its idle power and whatever else
    ran.
    """

    meter: Word
    joules_an_image: Ms
    watts: Ms
    images: Some


class PeakMemory(Checked):
    """Hold the process's peak memory after a batch of that size was made."""

    batch: Some
    bytes: Count


class OwnProcess(Checked):
    """Hold what a candidate's own process measured: loading, the first image, and peak memory."""

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
    """Hold the comparison of pairs of equal seeds that were made here.

    A PSNR of null says that no pixel differs; a null end of its interval says that it has no such
    end.
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
    ruined_needs: Some  # number of pairs without a ruined one that shows the limit
    worst_class: WorstClass | None
    same_pixels: Share  # share of pixels within one level of 255
    worst_pairs: Annotated[list[WorstSeed], Field(max_length=16)]


class HeldVerdict(Checked):
    """Hold what the bundle's own evidence says; none of it is measured here.

    `change` is that of the distance, null if it is not counted.
    """

    state: Literal["within", "outside", "undecided"]
    change: float | None
    change_low: float | None
    change_high: float | None
    features: Word | None
    pairs: Count
    signed_by: Annotated[str, Field(max_length=300)] | None


class Strip(Checked):
    """Describe a picture file of the report: images of one size, row by row."""

    file: Annotated[str, Field(pattern=r"^pictures/[a-z]{1,20}-[0-9]{1,4}\.png$")]
    rows: Annotated[int, Field(ge=1, le=16)]
    columns: Annotated[int, Field(ge=1, le=16)]
    height: Annotated[int, Field(ge=1, le=1024)]
    width: Annotated[int, Field(ge=1, le=1024)]
    # pixels a side of the original that one pixel stands for
    reduced: Annotated[int, Field(ge=1, le=1024)]


class BenchedBundle(Checked):
    """Describe a bundle; one without hashes was to be made for the bench and does not exist, and
    its rows say why.
    """

    name: Word
    family: Word
    source: Word
    edgegen: Word
    manifest_sha256: Digest | None
    full_sha256: Digest | None  # of what its full-precision images follow from
    signed_by: Annotated[str, Field(max_length=300)] | None
    image: Annotated[list[Some], Field(min_length=2, max_length=2)] | None  # height and width
    reference: Word | None  # name of the row that the others are compared with
    prompt: Sentence | None  # the prompt that the text encoder was timed with
    seeds: Strip | None
    steps: Some | None = None  # steps of its sampler


class BenchRow(Checked):
    """Describe one candidate: a bundle on a runtime in a precision."""

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
    peer: Word | None = None  # the toolkit that made its INT8, if it is not edgegen

    @property
    def label(self) -> str:
        """Return the name of the candidate within its bundle, such as "openvino INT8"."""
        by = f"{self.peer} on " if self.peer else ""
        return f"{by}{self.runtime} {self.precision.upper()}"

    @property
    def name(self) -> str:
        return f"{self.bundle}: {self.label}"

    @property
    def first(self) -> BatchLatency | None:
        """Return the latency of the smallest batch, or None if nothing was timed."""
        return self.latency[0] if self.latency else None


class GateFound(Checked):
    """Hold the outcome of one gate for one row."""

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
        """Return the bytes of the file."""
        return to_json(self.model_dump())

    def compared(self, latency: BatchLatency) -> Percentiles:
        """Return the percentiles in the clock that rows are compared by."""
        return latency.cpu if self.compared_by == "cpu" else latency.wall

    def samples(self, latency: BatchLatency) -> list[float]:
        """Return the samples in the clock that rows are compared by."""
        raw = latency.samples
        return raw.cpu_ms if self.compared_by == "cpu" else raw.wall_ms

    def bundle(self, name: str) -> BenchedBundle:
        """Return the bundle of that name."""
        return next(one for one in self.bundles if one.name == name)

    def of(self, bundle: str) -> list[BenchRow]:
        """Return the rows of a bundle."""
        return [row for row in self.rows if row.bundle == bundle]


def read_document(folder: Path) -> BenchDocument:
    """Read the document in a report's folder.

    Raises InputError if the folder has none, or the file is not valid.
    """
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
