"""Add what other toolkits made of the bundles as candidates beside edgegen's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...core.progress import Listener
from ...errors import UsageError
from .candidates import Candidate, OpenedForBench
from .peers import PEERS, Quantizing, RecordedFeeds
from .settings import BenchReportSettings


@dataclass
class PeerCandidates:
    """Hold the candidates of all peers.

    `failed` says why a tool made nothing, by the name of its candidate; `versions` holds each
    tool's version.
    """

    candidates: list[Candidate] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def peer_candidates(
    opened: Sequence[OpenedForBench],
    candidates: Sequence[Candidate],
    settings: BenchReportSettings,
    folder: Path,
    listen: Listener,
) -> PeerCandidates:
    """Let each tool quantize each bundle, one after the other, before anything is timed.

    `candidates` are edgegen's own; an FP32 candidate is added where a peer needs a runtime that
    they lack. Raises UsageError if none of the runtimes that were asked for executes a tool's
    files.
    """
    made = PeerCandidates()
    known = {(one.opened.name, one.runtime) for one in candidates}
    _check_runtimes(settings.peers, settings.runtimes)
    tools = [Quantizing(name, python, folder) for name, python in settings.peers.items()]
    made.versions = {f"{tool.tool}, a peer": tool.version for tool in tools if tool.version}
    for number, one in enumerate(opened if tools else ()):
        (place := folder / str(number)).mkdir()
        feeds = RecordedFeeds(one.bundle, place)
        for tool in tools:
            with listen.progress(f"{one.name}: {tool.tool} quantizes", tool.count) as advance:
                for found in tool.results(feeds, settings.runtimes):
                    variant, why = found.variant, found.why if found.skipped else ""
                    candidate = Candidate(
                        one, variant.runtime, "int8", why, variant.name, found.made
                    )
                    if not why and (one.name, variant.runtime) not in known:
                        # full precision on this runtime may be the fastest reference, so it is
                        # measured too
                        known.add((one.name, variant.runtime))
                        made.candidates.append(Candidate(one, variant.runtime, "fp32"))
                    made.candidates.append(candidate)
                    if found.why and not found.skipped:
                        made.failed[candidate.name] = found.why
                    advance(1)
    return made


def _check_runtimes(peers: Mapping[str, str], runtimes: Sequence[str] | None) -> None:
    for name in peers:
        wanted = dict.fromkeys(variant.runtime for variant in PEERS[name].variants)
        if runtimes is not None and not wanted.keys() & set(runtimes):
            raise UsageError(
                "E-USAGE",
                f"--peer {name}: {', '.join(wanted)} executes what it writes, and --runtime leaves "
                "that out",
            )
