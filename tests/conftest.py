"""One environment for every test: one thread, no network, no variables of ours, the same examples
each time.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import edgegen  # before any other library: it is what keeps them off the network

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


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A connection to another machine fails the test that makes it."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in (
            "127.0.0.1",
            "::1",
            "localhost",
        ):
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
    """Notes of searches stay in the tests."""
    os.environ["EDGEGEN_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    del os.environ["EDGEGEN_CACHE"]


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder; read it only."""
    import tiny

    return tiny.finished_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="session")
def tiny_bundle(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `edgegen export` makes of it for every runtime; copy it to change it."""
    from tiny import export

    out = tmp_path_factory.mktemp("bundle") / "tiny"
    assert export(tiny_run, out) == 0
    return out


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    import devices

    return devices.wheel(tmp_path_factory.mktemp("wheel"))
