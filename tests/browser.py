"""A page in a real browser without a window: Chromium, told what to do through two pipes."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 60  # that one answer may take
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")


def browser() -> str | None:
    """Where one is installed; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


# the browser reads from 3 and writes to 4
LAUNCHER = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
    "os.execv(sys.argv[3], sys.argv[3:])"
)


def beyond_the_first(held: int) -> int:
    """The same file under a number that nobody else wants."""
    moved = fcntl.fcntl(held, fcntl.F_DUPFD, 10)
    os.close(held)
    return moved


class Page:
    """One tab. events: what the browser told of it, such as messages and requests."""

    def __init__(self, write: int, read: int) -> None:
        self.write, self.read = write, read
        self.numbers, self.rest = itertools.count(1), b""
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.tell("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.tell(f"{domain}.enable")

    def tell(self, method: str, **parameters: Any) -> Any:
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while (found := self._next()).get("id") != number:
            self.events.append(found)
        assert "error" not in found, found
        return found["result"]

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.read], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self.read, 1 << 20)
            assert part, "the browser has ended"
            self.rest += part
        text, _, self.rest = self.rest.partition(b"\0")
        found: dict[str, Any] = json.loads(text)
        return found

    def open(self, path: Path) -> None:
        """A file, loaded to its end."""
        self.tell("Page.navigate", url=path.resolve().as_uri())
        while self.run("document.readyState") != "complete":
            time.sleep(0.05)

    def run(self, code: str) -> Any:
        """The value of an expression."""
        found = self.tell("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def size(self, width: int, height: int, is_phone: bool = False) -> None:
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if is_phone else 1,
            mobile=is_phone,
        )

    def media(self, kind: str = "", scheme: str = "light") -> None:
        """kind: "print" for paper; scheme: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.tell("Emulation.setEmulatedMedia", media=kind, features=features)

    def press(self, key: str, code: int, text: str = "") -> None:
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.tell("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        self.tell("Input.dispatchKeyEvent", type="keyUp", **about)

    def shot(self, path: Path, whole: bool = False) -> None:
        found = self.tell(
            "Page.captureScreenshot", captureBeyondViewport=whole, **self._clip(whole)
        )
        path.write_bytes(base64.b64decode(found["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.tell("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {**size, "scale": 1}}

    def pdf(self, path: Path) -> None:
        found = self.tell("Page.printToPDF", preferCSSPageSize=True, printBackground=False)
        path.write_bytes(base64.b64decode(found["data"]))

    def messages(self) -> list[dict[str, Any]]:
        """Whatever a console would show."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event for event in self.events if event.get("method") in kinds]

    def requests(self) -> list[str]:
        """Addresses that were asked for, but for pictures within the page."""
        asked = [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith("data:")]


@contextmanager
def opened(program: str, home: Path) -> Iterator[Page]:
    """A browser with one tab; it ends with the block. home: for its files."""
    theirs, write = os.pipe()
    read, answers = os.pipe()
    theirs, answers = (beyond_the_first(one) for one in (theirs, answers))
    flags = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
        *("--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage"),
        f"--user-data-dir={home / 'browser'}",
    ]
    started = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(theirs), str(answers), program, *flags],
        pass_fds=(theirs, answers),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(home)},
    )
    os.close(theirs)
    os.close(answers)
    try:
        yield Page(write, read)
    finally:
        os.close(write)
        os.close(read)
        started.terminate()
        started.wait()
