"""Load pictures with names, and train in a loop that resumes where it was ended."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

SIZE = 64  # pixels
EMA = 0.995
EVERY = 50  # steps between two checkpoints
SEED = 18


@dataclass(frozen=True)
class Pictures:
    """Hold images (n, 3, 64, 64) as bytes, with the label and the name of each."""

    images: Tensor
    labels: list[str]
    names: list[str]


def pictures(folder: Path) -> Pictures:
    """Load the emoji of one half, by file name; clip art has no names worth learning."""
    lines = (folder / "metadata.jsonl").read_text("utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if "/clip-" not in row["file_name"]]
    data = np.stack([np.asarray(Image.open(folder / row["file_name"])) for row in rows])
    return Pictures(
        torch.from_numpy(data).permute(0, 3, 1, 2).contiguous(),
        [row["label"] for row in rows],
        [row["text"] for row in rows],
    )


def scaled(images: Tensor) -> Tensor:
    """Map bytes to [-1, 1]."""
    return images.float() / 127.5 - 1


@dataclass
class Training:
    """Train in a loop that resumes from its checkpoint; `loss` receives a step's own random
    numbers.
    """

    name: str
    module: nn.Module
    loss: Callable[[torch.Generator], Tensor]
    steps: int
    rate: float
    work: Path

    def run(self) -> nn.Module:
        """Train, and return the module with the moving average of the weights."""
        averaged = torch.optim.swa_utils.AveragedModel(
            self.module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA)
        )
        optimizer = torch.optim.AdamW(self.module.parameters(), lr=self.rate, weight_decay=0.01)
        parts: dict[str, Any] = {"m": self.module, "a": averaged, "o": optimizer}
        path, begin = self.work / f"{self.name}.pt", 0
        if path.is_file():
            held = torch.load(path, weights_only=True)
            begin = held.pop("step")
            for key, part in parts.items():
                part.load_state_dict(held[key])
        self.module.train()
        total, start = 0.0, time.process_time()
        for step in range(begin, self.steps):
            for group in optimizer.param_groups:
                group["lr"] = self.rate * self._share(step)
            loss = self.loss(torch.Generator().manual_seed(SEED * 1_000_003 + step))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            optimizer.step()
            averaged.update_parameters(self.module)
            total += loss.item()
            if (step + 1) % EVERY == 0 or step + 1 == self.steps:
                held = {key: part.state_dict() for key, part in parts.items()}
                torch.save({**held, "step": step + 1}, path.with_suffix(".new"))
                os.replace(path.with_suffix(".new"), path)
                spent = time.process_time() - start
                text = f"{self.name} {step + 1}/{self.steps}: {total / EVERY:.4f}, {spent:.0f} s"
                print(text, flush=True)
                total = 0.0
        return averaged.module.eval()

    def _share(self, step: int) -> float:
        """Return the share of the rate at a step: it rises at first, and falls over the
        last third.
        """
        return min(1.0, (step + 1) / 100, (self.steps - step) * 3 / self.steps)


def drawn(count: int, of: int, numbers: torch.Generator) -> Tensor:
    return torch.randint(of, (count,), generator=numbers)
