"""One environment for every test: one thread, no network, no variables of ours, the same examples
each time.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import long_set
import machine_kind
import pytest
import quick_set
import reliability_table
import small_features
import trace_memory
from filelock import FileLock

import edgegen

edgegen.offline()  # before any other library is imported
for _name in [name for name in os.environ if name.startswith("EDGEGEN_")]:
    del os.environ[_name]
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    # torch reads it when first imported, and so do the processes tests start
    os.environ[_name] = "1"
# nohup, and a shell that starts a job behind `&`, leave these ignored; tests and the processes they
# start rely on them
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

hypothesis.settings.register_profile("edgegen", deadline=None, derandomize=True)
hypothesis.settings.load_profile("edgegen")

assert edgegen.__version__

# Tests that ask for one of these need what takes an export, or seconds, to make.
MARK_OF_FIXTURE = {
    "tiny_bundle": "export",
    "every_graph": "slow",
    "wheel": "slow",
    "plain_folder": "slow",  # diffusers makes it, whose import takes seconds
    "prompted_folder": "slow",
}
TRACES = pytest.StashKey[Path | None]()
STARTED = time.perf_counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        action="store_true",
        help="only the quick tests; fails if they are too few or leave a package out",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--quick") and not config.option.markexpr:
        config.option.markexpr = quick_set.MARKS


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name == "contract":  # its files know no marks: .ci/run takes them alone
            item.add_marker("slow")
        if long_set.is_long(item.nodeid):
            item.add_marker("long")
        for name in MARK_OF_FIXTURE.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARK_OF_FIXTURE[name])
    left = set[str]()
    if "reliability" not in config.option.markexpr:
        left |= {item.nodeid for item in items if item.get_closest_marker("reliability")}
    if config.getoption("--quick"):
        left |= quick_set.beyond_the_first_cases(item.nodeid for item in items)
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left])
    items[:] = [item for item in items if item.nodeid not in left]


@pytest.hookimpl(optionalhook=True)  # of xdist
def pytest_configure_node(node: Any) -> None:
    """The controller tells its workers what they share."""
    node.workerinput["traces"] = str(_traces(node.config) or "")


def _traces(config: pytest.Config) -> Path | None:
    """What traces are shared in; None where a run keeps no cache."""
    if hasattr(config, "workerinput"):
        told = config.workerinput["traces"]
        return Path(told) if told else None
    if TRACES not in config.stash:
        cache = getattr(config, "cache", None)
        config.stash[TRACES] = cache and trace_memory.shared_folder(cache.mkdir("traces"))
    return config.stash[TRACES]


def pytest_runtest_setup(item: pytest.Item) -> None:
    trace_memory.install(_traces(item.config))
    small_features.install(item.path.name)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--quick") and _quick_shortfall(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """The kind of machine; of a quick run also its size, and what it has too little of."""
    terminalreporter.write_line(machine_kind.described(machine_kind.cpu_info()))
    if "reliability" in config.option.markexpr:
        for line in reliability_table.lines(_reports(config), time.perf_counter() - STARTED):
            terminalreporter.write_line(line)
    if config.getoption("--quick"):
        tests, seconds = len(_tests_run(config)), time.perf_counter() - STARTED
        terminalreporter.write_line(f"quick set: {tests} tests in {seconds:.0f} s")
        for sentence in _quick_shortfall(config):
            terminalreporter.write_line(f"quick set: {sentence}", red=True)


def _reports(config: pytest.Config) -> list[pytest.TestReport]:
    """With xdist only the controller has all."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    reports = [r for found in reporter.stats.values() for r in found] if reporter else []
    return [r for r in reports if isinstance(r, pytest.TestReport)]


def _tests_run(config: pytest.Config) -> set[str]:
    """Node ids of the tests that a report came from."""
    return {report.nodeid for report in _reports(config)}


def _quick_shortfall(config: pytest.Config) -> list[str]:
    tests = _tests_run(config)
    if hasattr(config, "workerinput") or config.option.collectonly:
        return []
    files = {test.partition("::")[0].removeprefix("tests/") for test in tests}
    return quick_set.shortfall(len(tests), quick_set.touched(files))


@pytest.fixture(autouse=True)
def no_network(
    monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> Iterator[None]:
    """A connection to another machine fails the test that makes it."""
    connect, found = socket.socket.connect, ["inet", "tests", 1, 0]
    record_property("reliability", found)

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
            found[3] = 1
            raise AssertionError(f"a test tried to connect to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A verb sets torch's threads for its process; here it shares one with the next test, whose
    sums would round differently.
    """
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Notes of searches stay in the tests, and all workers have the same."""
    (cache := shared(tmp_path_factory) / "cache").mkdir(parents=True, exist_ok=True)
    os.environ["EDGEGEN_CACHE"] = str(cache)
    yield
    del os.environ["EDGEGEN_CACHE"]


def shared(factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of the run have in common."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # a worker's own folder lies in the one of the run
    return base / "shared"


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name` that `make` fills: by the first of the workers that asks, for all of
    them.
    """
    base = shared(factory)
    folder, done = base / name, base / f"{name}.done"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that failed in it
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder; read it only."""
    import tiny

    return made_once(tmp_path_factory, "run", lambda at: tiny.finished_run(at / "run")) / "run"


@pytest.fixture(scope="session")
def half_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy run that failed after its checkpoint at step 20; read it only."""
    import runs

    return made_once(tmp_path_factory, "half", lambda at: runs.failed(at / "run", 23)) / "run"


@pytest.fixture(scope="session")
def family_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family to a run of 24 steps of its tiny recipe, as `edgegen train` leaves it; read it
    only.
    """
    import runs

    def run(name: str) -> Path:
        made = made_once(
            tmp_path_factory, f"run of {name}", lambda at: runs.of_family(name, at / "run")
        )
        return made / "run"

    return run


@pytest.fixture
def half(half_run: Path, tmp_path: Path) -> Path:
    """A copy of it, to be resumed or damaged."""
    return shutil.copytree(half_run, tmp_path / "run")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `edgegen export` makes of it for every runtime; copy it to change it."""
    import tiny

    def make(folder: Path) -> None:
        (folder / "plan.json").write_bytes(tiny.measured_plan().to_bytes())
        given = ("--plan", str(folder / "plan.json"))
        assert tiny.export(tiny_run, folder / "tiny", *given) == 0

    return made_once(tmp_path_factory, "bundle", make) / "tiny"


@pytest.fixture(scope="session")
def every_graph(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    """(family, graph) -> FP32 ONNX of random weights; read it only."""
    import graphs
    import onnx

    folder = made_once(tmp_path_factory, "graphs", graphs.export_every_graph)
    return {key: onnx.load(folder / f"{' '.join(key)}.onnx") for key in graphs.GRAPHS}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    import devices

    folder = made_once(tmp_path_factory, "wheel", lambda at: devices.wheel(at))
    return next(folder.glob("edgegen-*.whl"))
