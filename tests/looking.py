"""`edgegen photos check` as a user meets it, for tests that make folders of photos."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colours import lab
from photo_folders import Files, write
from PIL import Image

from edgegen.cli.main import run


@dataclass(frozen=True)
class Look:
    """`photos check --json`, once: exit code, document, what went to stderr, the contact sheet."""

    code: int
    document: dict[str, Any]
    said: str
    sheet: Path

    @property
    def sentence(self) -> str:
        return str(self.document["understood"]["sentence"])

    @property
    def photos(self) -> dict[str, Any]:
        """Of the report, refused or not."""
        document = self.document if "photos" in self.document else self.document["details"]
        return dict(document["photos"])

    def drawn(self, colour: tuple[int, int, int]) -> int:
        """Pixels of that colour on the sheet."""
        with Image.open(self.sheet) as sheet:
            flat = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
        apart = np.sqrt(((lab(flat) - lab(np.array(colour))) ** 2).sum(1))
        return int((apart <= 1.5).sum())


class Site:
    """A folder to make photos in, and the command line to look at them with."""

    def __init__(self, root: Path, captured: pytest.CaptureFixture[str]) -> None:
        self.root, self.captured = root, captured

    def look(self, data: Path, *flags: str) -> Look:
        sheet = self.root / f"sheet of {data.name}.png"
        words = ["photos", "check", str(data), "--contact-sheet", str(sheet), "--json", *flags]
        self.captured.readouterr()
        code = run(words)
        shown = self.captured.readouterr()
        return Look(code, json.loads(shown.out), shown.err, sheet)

    def refused(self, *words: str) -> str:
        """What a verb says that must end with exit code 4."""
        self.captured.readouterr()
        assert run(list(words)) == 4
        said = self.captured.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("error[")
        return said

    def folder(self, files: Files, name: str = "photos") -> Path:
        return write(self.root / name, files)
