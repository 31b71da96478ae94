"""Write the model card of a bundle (README.md) from its manifest alone, so that the two cannot
differ. It has no timings, because they never repeat.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...evidence.compare import NOT_COUNTED

FILE = "README.md"
EMBEDS = {
    "none": "It contains no training photos and no features of them.",
    "features": "**It contains features of training photos**: protect it as you protect the "
    "photos.",
    "pixels": "**It contains training photos**: protect it as you protect the photos.",
}


# characters with a meaning in Markdown, which a prompt may contain
_MARKS = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_[]<>|#&"})


def card(about: Mapping[str, Any], height: int, width: int) -> bytes:
    """Return the card as Markdown with the header that model hubs read.

    `about` is the manifest without its files; `height` and `width` are the pixels of an image.
    """
    source, evidence = about["source"], about["evidence"]
    found = list(evidence["runtimes"].values())
    one = found[0]
    lines = [
        "---",
        "library_name: edgegen",
        "license: other",
        f"license_name: {json.dumps(source['licence'])}",
        "pipeline_tag: unconditional-image-generation",
        f"tags: [edgegen, {about['family']}, int8, onnx]",
        "---",
        "",
        f"# {source['name']}: an INT8 bundle of the family {about['family']}",
        "",
        f"Makes images of {width} x {height} pixels{_classes(about)} from seeds. Licence: "
        f"{source['licence']}. {_origin(source)}",
        EMBEDS[about["embeds_training_data"]],
        "",
        f"Quantization: {about['scheme']}. Calibrated on {about['calibration']['samples']} seeds.",
        "",
        "| runtime | version | FD change | ruined | worst class | verdict | PSNR to FP32 | size to "
        "FP32 | executed by |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(name, about["runtimes"][name], r) for name, r in evidence["runtimes"].items()),
        "",
        f"{_distance(one)} Both made images of the same seeds. Measured on "
        f"{evidence['machine']['cpu']}.",
        "",
        "```",
        "edgegen verify THIS_FOLDER --images-only",
        "edgegen generate THIS_FOLDER --seed 7 -n 64 -o grid.png",
        "```",
        "",
        "Limits: the generator can only make what its training photos showed; the verdict holds "
        "for the seeds, features and reference named above. `manifest.json` has the whole "
        "evidence and the sha256 of every file.",
        "",
    ]
    return "\n".join(lines).encode("utf-8")


def _classes(about: Mapping[str, Any]) -> str:
    start = about["start"]
    prompts = sum(len(one.get("texts", ())) for one in start.get("conditions", ()))
    count = start.get("classes") or sum(c.get("classes", 0) for c in start.get("conditions", ()))
    told = f" in {count} classes" if count else ""
    return told + (f" of {prompts} prompts that it holds" if prompts else "")


def _origin(source: Mapping[str, Any]) -> str:
    data = source["data"]
    told = f"Trained on {data.get('name', 'photos of the owner')}"
    told += f" ({data['images']} images)" if "images" in data else ""
    return told + (f", adapted from {source['base']}." if "base" in source else ".")


def _distance(one: Mapping[str, Any]) -> str:
    if one["verdict"] == NOT_COUNTED:
        return f"FD is not counted. Features: {one['features']} at {one['size']} px."
    return (
        f"FD: Frechet distance over {one['features']} at {one['size']} px to {one['reference']}; "
        f"not an Inception FID. FP32: {one['distance_full']['value']:.1f}."
    )


def _change(found: Mapping[str, Any]) -> str:
    change = found["change"]
    if found["verdict"] == NOT_COUNTED:
        return NOT_COUNTED
    return (
        f"{change['value']:+.2%} ({change['low']:+.2%} to {change['high']:+.2%}, at "
        f"{found['look_level']:.1%})"
    )


def _verdict(found: Mapping[str, Any]) -> str:
    if found["verdict"] == NOT_COUNTED:
        return str(found["state"])
    return f"{found.get('state', found['verdict'])} +-{found['budget']:.0%}"


def _row(name: str, built: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    psnr = found["psnr_db"]
    cells = (
        name,
        built["version"],
        f"{_change(found)}, {found['images']} pairs from seed {found['first_seed']}",
        *_gates(found),
        _verdict(found),
        "equal" if psnr is None else f"{psnr:.1f} dB",
        f"{found['size_ratio']:.2f} x",
        found["executed_by"],
    )
    return f"| {' | '.join(cells)} |"


def _gates(found: Mapping[str, Any]) -> tuple[str, str]:
    """Return the cells for the ruined pairs and for the class with the least PSNR."""
    gates = found["gates"]
    tail = gates["ruined"]
    classes = [one for one in gates["classes"] if one["psnr_db"] is not None]
    worst = min(classes, key=lambda one: one["psnr_db"], default=None)
    return (
        f"{tail['ruined']} of {tail['pairs']} pairs, <= {tail['at_most']:.2%}",
        f"{worst['class'].translate(_MARKS)}: {worst['psnr_db']:.1f} dB" if worst else "none",
    )
