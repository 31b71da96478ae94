"""The ends of the scale that a fine-tuning's images are put on are measured for folders of photos.

    python -m benchmarks nearness ~/.cache/edgegen/furniture ~/.cache/edgegen/objects --photos 820

Of each folder: a fifth of the photos held out, KID and FD to them of as many others and of those
blurred by 1, 2 and 4 pixels (EfficientNet-Lite0 at 128 px; FD along one direction of the training
photos for every four held-out ones; 95 % intervals), above which KID `edgegen finetune` says
W-TUNE-FAR, and how often a classifier of the other photos names the held-out ones, and what of that
is left where those are blurred by 1 pixel. Blur by 4 pixels leaves blobs of colour at 32 pixels a
side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from _pictures import blurred
from _result import Part, Row, arguments_of, followed, report

from edgegen.core.spec import Array
from edgegen.evidence.features import FeatureNetwork, feature_network
from edgegen.evidence.nearness import ADAPTED, BASE, BLURRED, PHOTOS, NearnessScale, spaced
from edgegen.evidence.small_sample_distance import Distance, directions
from edgegen.training.data import Photos, load
from edgegen.training.recognition import Recogniser
from edgegen.training.split import split

MORE_BLUR = {BASE: 2.0, ADAPTED: 4.0}  # shown in place of generated images
NAMES = {PHOTOS: "others", BLURRED: "blur 1", BASE: "blur 2", ADAPTED: "blur 4"}


def row(folder: Path, size: int, most: int) -> Row:
    photos, network = load(folder, size)[0], feature_network("efficientnet-lite0")
    some = Photos(*photos.read(spaced(len(photos), most)), photos.classes)
    train, held_out = split(some, 0.2)
    features, target = network(train.pixels), network(held_out.pixels)
    sides = {
        PHOTOS: features,
        BLURRED: network(blurred(train.pixels, 1.0)),
        **{name: network(blurred(train.pixels, sigma)) for name, sigma in MORE_BLUR.items()},
    }
    scale = NearnessScale.of(sides, target, directions(features, len(target)))

    def both(name: str) -> str:
        return ", ".join(text(distances[name]) for distances in (scale.kid, scale.fd))

    return {
        "photos": folder.name,
        "train, held out": f"{len(train)}, {len(held_out)}",
        **{NAMES[name]: both(name) for name in sides},
        "far above": f"{scale.limit:.2f}",
        "recognised, blur 1": recognised(train, held_out, network, features, target),
    }


def recognised(
    train: Photos, held_out: Photos, network: FeatureNetwork, features: Array, target: Array
) -> str:
    """Return the recognition of the held-out photos, and of the same photos blurred by 1 pixel,
    with chance subtracted.
    """
    recogniser = Recogniser(features, train.labels, len(train.classes))
    faint = network(blurred(held_out.pixels, 1.0))
    found = recogniser.recognition((faint, held_out.labels), (target, held_out.labels))
    if found is None or found.share is None:
        return "not told"
    share = found.share
    return f"{found.held_out:.2f}, {share.value:.2f} ({share.low:.2f} to {share.high:.2f})"


def text(distance: Distance) -> str:
    found = distance.interval()
    return f"{found.value:.3g} ({found.low:.2g} to {found.high:.2g})"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="PHOTOS")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--photos", type=int, default=820, help="of each folder, at most")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows = (row(folder.expanduser(), given.size, given.photos) for folder in given.folders)
    about = {"size": given.size, "photos, at most": given.photos}
    part = Part(followed(rows), "none: photos alone", 1, about)
    report(given.json, "nearness", "folders", part)


if __name__ == "__main__":
    main()
