"""Hold the settings of a bench report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...core.reader import Places
from ...errors import UsageError
from ..limits import Limit, check_numbers

STEPS = Limit(1, 10**4)  # of a sampler


@dataclass(frozen=True)
class BenchReportSettings:
    """Say how much is measured and which limits the pairs of images have to keep."""

    batch: int = 8  # size of the larger batch that is timed; single images are always timed
    rounds: int = 25  # timed rounds, interleaved over all candidates
    threads: int = 1  # CPU threads of each runtime
    pairs: int = 64  # seeds whose images are compared with full precision
    runtimes: Sequence[str] | None = None  # None: every runtime of the bundles
    min_psnr_db: float = 35.0  # over all pairs; a single class may lie 3 dB below
    max_ruined: float = 0.002  # largest share of pairs whose difference shows at a glance
    gates: Path | None = None  # TOML file of the limits that each row must keep
    overwrite: bool = False  # replace an earlier report
    public_key: Places = None  # refuse a bundle that no owner of these keys signed
    trust_engines: bool = False  # execute GPU engines that no signature vouches for
    least_release: int | None = None  # refuse what was signed as an older release

    zoo: bool = False  # measure the zoo's generators too; export those whose bundles are missing
    zoo_steps: Sequence[int] | None = None  # numbers of sampler steps for them; None: their own
    zoo_folder: Path | None = None  # where the exports of --zoo stay; None: beside the report
    torch: bool = False  # measure full precision in torch too, for generators of the zoo
    # toolkits that quantize the same graphs, with the Python that has each; "" is this Python
    peers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from .peers import check_peers

        check_numbers(self, threads=Limit(1, 1024))
        check_peers(self.peers)
        if not self.zoo and self.zoo_folder is not None:
            raise UsageError(
                "E-USAGE",
                "--work has no meaning without --zoo, which keeps its exports there: add --zoo",
            )
        if not self.zoo and self.zoo_steps is not None:
            raise UsageError(
                "E-USAGE",
                "--steps has no meaning without --zoo: a bundle runs with the steps that it was "
                "calibrated and judged with",
                hint="`edgegen export SOURCE --steps N` makes a bundle with another number of "
                "steps",
            )
        for steps in self.zoo_steps or ():
            if fault := STEPS.fault(steps):
                raise UsageError("E-USAGE", f"--steps {fault}")
        if self.zoo and self.public_key is not None:
            raise UsageError(
                "E-USAGE",
                "--zoo and --public-key exclude each other: the bundles that --zoo makes are not "
                "signed",
            )

    def folder_of_zoo(self, report: Path | None) -> Path:
        """Return the folder that keeps the zoo's bundles. Raises UsageError if neither it nor a
        report is named.
        """
        if self.zoo_folder is not None:
            return self.zoo_folder
        if report is None:
            raise UsageError(
                "E-USAGE", "--zoo needs a folder for its exports: add --report, or --work FOLDER"
            )
        return report.with_name(f"{report.name}-bundles")

    @property
    def batches(self) -> tuple[int, ...]:
        """Return the batch sizes that are timed, the smallest first."""
        return (1, self.batch) if self.batch > 1 else (1,)
