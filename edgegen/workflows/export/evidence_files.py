"""Write a bundle's evidence as files: golden images, pictures, the model card and a certificate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...core.bundle import Bundle, write_manifest
from ...core.files import put
from ...core.images import png
from ...core.seeds import EVIDENCE
from ...evidence import certificate, golden_images
from ...evidence.picture import side_by_side, worst_pairs
from ...machine.describe import measured_on
from . import model_card
from .build import described
from .prove import Proof


def write_evidence(bundle: Bundle, proof: Proof, more: Mapping[str, Any]) -> None:
    """Write the evidence files into the bundle, and the manifest anew with everything that was
    measured.
    """
    folder, pictures = bundle.root, dict(proof.pictures)
    sets = {name or golden_images.FULL: images for name, images in pictures.items()}
    golden = golden_images.Kept(EVIDENCE.first, sets)
    put(folder / golden_images.FILE, golden_images.to_bytes(golden))
    picture = side_by_side(pictures.pop(""), pictures)
    put(folder / "evidence" / "same-seeds.png", png(picture))
    worst = {judged.name: judged.judgement.worst for judged in proof.judged}
    put(folder / "evidence" / "worst-pairs.png", png(worst_pairs(worst)))
    description = described(bundle)
    description["evidence"] |= {**more, **proof.to_json(), "machine": measured_on()}
    height, width = sets[golden_images.FULL].shape[1:3]
    put(folder / model_card.FILE, model_card.card(description, height, width))
    shown = {
        name: np.stack([(pair.full, pair.other) for pair in pairs]) for name, pairs in worst.items()
    }
    put(folder / certificate.FILE, certificate.page(description, shown))
    write_manifest(folder, description)
