"""A damage map as numbers, pictures and one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.files import JsonObject
from . import page, pictures
from .agreement import Check, by_region, decibels
from .damage import Attribution, QuantizedLayer
from .lattice import Floats
from .regions import Regions

SHOWN, DRAWN, SEEDS = 24, 6, 4  # numbers of layers in the matrix, of layers and images as pictures
HOW = (
    "Rounding moves an image by, to first order, a sum over all roundings. A layer's part of a "
    "region's squared error is the "
    "product of that error with what the layer's own roundings add to it, as everything behind "
    "them passes it on. Roundings "
    "behind a layer answer to its own at random, so that parts need not add up to 100 %, and a few "
    "images say little of a layer "
    "with a small part."
)
CHECKED = (
    "The check is an intervention: each layer alone is put back to full precision, in the files "
    "that ship, and the squared error "
    "that goes with it is measured on the same seeds. It may be negative: other roundings then "
    "fall otherwise."
)


@dataclass(frozen=True)
class Damaged:
    """A damage map: images full and int8 (n, c, h, w) in [-1, 1] of the same seeds, with their
    attribution; cost: each layer's share of all multiplications.
    """

    title: str
    regions: Regions
    seeds: Sequence[int]
    full: Floats
    int8: Floats
    layers: Sequence[QuantizedLayer]
    cost: Sequence[float]
    attribution: Attribution
    check: Check | None

    def shares(self) -> Floats:
        """Return each region's shares (layers, times, regions) of its squared error, over all
        seeds.
        """
        made: Floats = self.attribution.parts.sum(2) / np.maximum(
            self.attribution.whole.sum(0), 1e-30
        )
        return made

    def order(self) -> list[int]:
        """Return the indices of the layers by their part of the whole error, largest first."""
        return [int(k) for k in np.argsort(-self.attribution.parts.sum((1, 2, 3)), kind="stable")]

    def to_json(self) -> JsonObject:
        whole = float(self.attribution.whole.sum()) or 1.0
        square = by_region(self.int8 - self.full, self.regions.masks)
        shares, removed = self.shares(), self._removed()
        return {
            "damage": {
                "psnr_db": decibels(float(square.sum()), self._numbers().sum()),
                "predicted_psnr_db": decibels(whole, self._numbers().sum()),
                "explained": float(self.attribution.parts.sum() / whole),
            },
            "regions": [
                {
                    "region": r + 1,
                    "psnr_db": decibels(float(square[:, r].sum()), float(n)),
                    "share": float(square[:, r].sum() / (square.sum() or 1.0)),
                    **self._first(r, square),
                }
                for r, n in enumerate(self._numbers())
            ],
            "layers": [
                {
                    "layer": self.layers[k].path,
                    "share": float(self.attribution.parts[k].sum() / whole),
                    "removed": None
                    if removed is None
                    else float(removed[k].sum() / (square.sum() or 1.0)),
                    "multiplications": self.cost[k],
                    "by_region": [float(v) for v in shares[k].sum(0)],
                    "by_time": {
                        t: float(v)
                        for t, v in zip(
                            self.attribution.times,
                            self.attribution.parts[k].sum((1, 2)) / whole,
                            strict=True,
                        )
                    },
                }
                for k in self.order()
            ],
            "check": None if self.check is None else self.check.to_json(),
        }

    def _removed(self) -> Floats | None:
        return None if self.check is None else self.check.removed.sum(1)

    def _numbers(self) -> Floats:
        """Return the number of values that each region has in all images."""
        counts: Floats = self.regions.masks.sum((1, 2)) * float(len(self.full) * self.full.shape[1])
        return counts

    def _first(self, region: int, square: Floats) -> JsonObject:
        """Return the layer with the largest part of a region's error, and the region's PSNR with
        that layer alone put back.
        """
        parts = self.attribution.parts[..., region].sum((1, 2))
        k = int(parts.argmax())
        removed = self._removed()
        left = (
            None
            if removed is None
            else decibels(
                float(square[:, region].sum() - removed[k, region]), float(self._numbers()[region])
            )
        )
        return {
            "first": self.layers[k].path,
            "first_share": float(parts[k] / max(self.attribution.whole[:, region].sum(), 1e-30)),
            "psnr_db_with_first_put_back": left,
        }

    def table(self, count: int) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows of the first `count` layers, for the terminal."""
        rows = []
        for one in self.to_json()["layers"][:count]:
            removed = "-" if one["removed"] is None else f"{one['removed']:.1%}"
            worst = int(np.argmax(one["by_region"])) + 1
            when = max(one["by_time"], key=one["by_time"].__getitem__)
            rows.append(
                [
                    one["layer"],
                    f"{one['share']:.1%}",
                    removed,
                    f"{one['multiplications']:.1%}",
                    str(worst),
                    when,
                ]
            )
        return [
            "layer",
            "of the damage",
            "gone when put back",
            "multiplications",
            "region most hit",
            "timestep most hit",
        ], rows

    def drawings(self) -> dict[str, np.ndarray]:
        """Return the pictures by file name, each (h, w, 3) uint8."""
        apart = np.square(self.int8 - self.full, dtype=np.float64).mean(1)  # (n, h, w)
        mean, where = self.full.mean(0), np.sqrt(apart.mean(0))
        out = {
            "damage.png": pictures.outlined(
                pictures.heat(mean, where, float(where.max())), self.regions, numbers=True
            )
        }
        worst = np.argsort(-apart.mean((1, 2)), kind="stable")[:SEEDS]
        out["seeds.png"] = pictures.below([self._pair(k) for k in worst])
        shares = self.shares().sum(1)
        for place, k in enumerate(self.order()[:DRAWN]):
            labels = self.regions.labels
            values = np.where(labels >= 0, shares[k][np.maximum(labels, 0)], 0).clip(0)
            drawn = pictures.heat(mean, values, float(max(shares.max(), 1e-30)))
            out[f"layer-{place + 1}.png"] = pictures.outlined(drawn, self.regions, numbers=True)
        return out

    def _pair(self, k: int) -> np.ndarray:
        """Return a picture of one seed in full precision, in INT8, and of their difference."""
        apart = pictures.change(self.full[k], self.int8[k])
        return pictures.beside(
            [
                pictures.plain(self.full[k]),
                pictures.plain(self.int8[k]),
                pictures.outlined(
                    pictures.heat(self.full[k], apart, float(apart.max())), self.regions
                ),
            ]
        )

    def to_html(self, drawn: Mapping[str, np.ndarray]) -> bytes:
        """Return one HTML page without external files; drawn: the pictures of `drawings`."""
        document = self.to_json()
        layers = document["layers"]
        parts = [
            *self._pictures(drawn),
            page.heading("Regions"),
            _regions_table(document["regions"]),
            page.heading("Layers and timesteps"),
            page.words(HOW),
            page.matrix(
                ("layer", *self.attribution.times),
                [(layer["layer"], list(layer["by_time"].values())) for layer in layers[:SHOWN]],
                "all damage",
            ),
            page.heading("Layers and regions"),
            *(
                page.figure(
                    drawn[f"layer-{k + 1}.png"],
                    f"{layer['layer']}: {_percent(layer['share'])} of all damage",
                )
                for k, layer in enumerate(layers[:DRAWN])
            ),
            page.matrix(
                ("layer", *(f"region {r + 1}" for r in range(self.regions.count))),
                [(layer["layer"], layer["by_region"]) for layer in layers[:SHOWN]],
                "each region's damage",
            ),
            page.heading("All layers"),
            _layers_table(layers),
        ]
        if document["check"] is not None:
            parts += [
                page.heading("Check"),
                page.words(CHECKED, note=True),
                page.facts(document["check"]),
            ]
        parts += [page.heading("Damage"), page.facts(document["damage"])]
        return page.page(self.title, parts)

    def _pictures(self, drawn: Mapping[str, np.ndarray]) -> list[str]:
        count = f"{len(self.seeds)} seeds from {self.seeds[0]}"
        return [
            page.figure(
                drawn["damage.png"],
                f"where INT8 differs from full precision, root mean square over {count}",
            ),
            page.figure(
                drawn["seeds.png"],
                f"the {min(SEEDS, len(self.seeds))} that differ most: full precision, INT8, where",
            ),
        ]


def _regions_table(regions: Sequence[JsonObject]) -> str:
    return page.table(
        (
            "region",
            "PSNR, dB",
            "share of the damage",
            "first layer",
            "its part",
            "PSNR with it put back, dB",
        ),
        [
            (
                region["region"],
                region["psnr_db"],
                _percent(region["share"]),
                region["first"],
                _percent(region["first_share"]),
                region["psnr_db_with_first_put_back"],
            )
            for region in regions
        ],
    )


def _layers_table(layers: Sequence[JsonObject]) -> str:
    return page.table(
        ("layer", "part of the damage", "gone when put back", "of all multiplications"),
        [
            (
                layer["layer"],
                _percent(layer["share"]),
                _percent(layer["removed"]),
                _percent(layer["multiplications"]),
            )
            for layer in layers
        ],
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
