"""What bases draw is measured before anything is adapted: how near it is to coloured objects that
were held out, and to a site's photos.

    python -m benchmarks bases cas-dm edgegen/zoo/cas-dm-objects --json docs/results/bases.json

Each base is a name of the zoo or a run. KID to the site's photos and to the held-out objects, FD to
the objects along 128 directions, bias-corrected (EfficientNet-Lite0 at 128 px), at the base's own
solver and steps. An adapting begins farther away, since each class of a site begins as the mean of
the base's classes. Rows of a Markdown table; --grids FOLDER keeps a picture of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from _result import Part, Row, arguments_of, report, rows_of

from edgegen.core.images import grid, save_png, to_uint8
from edgegen.core.seeds import BENCHMARKS
from edgegen.core.spec import Array
from edgegen.evidence import reference
from edgegen.evidence.distances import kernel_distance
from edgegen.evidence.features import FeatureNetwork, feature_network
from edgegen.evidence.intervals import distance_interval
from edgegen.training.data import load
from edgegen.workflows.generators import load_generator, torch_pipeline

PICTURES = 96  # images in a grid


@dataclass(frozen=True)
class Scene:
    """Hold what bases are compared with: features of a user's photos and of held-out objects, of
    one image size.
    """

    network: FeatureNetwork
    site: Array
    objects: Array

    @classmethod
    def of(cls, site: Path, objects: Path, size: int) -> Scene:
        network = feature_network("efficientnet-lite0")
        sets = (load(folder.expanduser(), size)[0].pixels for folder in (site, objects))
        return cls(network, *(network(pixels) for pixels in sets))


def row(base: str, scene: Scene, images: int, grids: Path | None) -> Row:
    generator = load_generator(base).generator
    pipeline = torch_pipeline(generator)
    pixels = to_uint8(pipeline(BENCHMARKS.take(images)))
    drawn = scene.network(pixels)
    statistics = reference.build(scene.objects, scene.network, "held-out objects")
    distance = distance_interval(statistics.moments, statistics.project(drawn))
    if grids is not None:
        save_png(grids / f"{Path(base).name}.png", grid(pixels[:PICTURES], 16), scale=2)
    return {
        "base": Path(base).name,
        "sampler": f"{generator.sampler.kind}, {len(generator.sampler.timesteps)} steps",
        "KID, site": round(kernel_distance(drawn, scene.site), 3),
        "KID, objects": round(kernel_distance(drawn, scene.objects), 3),
        "FD, objects": f"{distance.value:.4g} ({distance.low:.4g} to {distance.high:.4g})",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("bases", nargs="+", metavar="BASE", help="a zoo's name, or a run")
    parser.add_argument("--site", type=Path, default=Path("~/.cache/edgegen/furniture"))
    parser.add_argument("--held-out", type=Path, default=Path("~/.cache/edgegen/objects/test"))
    parser.add_argument("--size", type=int, default=32, help="of all bases' images")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--grids", type=Path, metavar="FOLDER")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    scene = Scene.of(given.site, given.held_out, given.size)
    rows = [row(base, scene, given.images, given.grids) for base in given.bases]
    anew = {one["base"] for one in rows}
    before = [one for one in rows_of(given.json, "bases") if one["base"] not in anew]
    about = {"images": given.images, "size": given.size, "site": given.site.name}
    part = Part([*before, *rows], "the benchmarks' first", 1, about)
    report(given.json, "bases", "bases", part)


if __name__ == "__main__":
    main()
