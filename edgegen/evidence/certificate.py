"""Write a bundle's evidence as one self-contained page for a quality engineer, made from the
manifest and the worst pairs alone, so that it cannot say anything else. It needs numpy only.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from statistics import NormalDist
from typing import Any

import numpy as np

from ..core.images import grid, png
from ..version import __version__
from .compare import NOT_COUNTED
from .judge import DISTANCE_IS_LARGE
from .looks import FEW_PAIRS, LEAST_PAIRS
from .second_judge import asked_with

FILE = "evidence/certificate.html"
Rows = Sequence[Sequence[str]]
WORDS = {
    **{"within": "passed", "outside": "failed", "undecided": "undecided"},
    NOT_COUNTED: NOT_COUNTED,
}
STYLE = """
:root{--ink:#16202b;--soft:#5b6977;--line:#d8dfe6;--ok:#0b7a43;--bad:#b3261e;--open:#9a6700}
*{box-sizing:border-box}
body{margin:0;background:#f3f5f7;color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:960px;margin:24px auto;padding:36px 44px;background:#fff}
main{border:1px solid var(--line)}h1{font-size:26px;margin:0 0 4px}
h2{font-size:18px;margin:32px 0 8px}h3{font-size:15px;margin:20px 0 6px}
p{margin:6px 0 10px;max-width:75ch}.soft{color:var(--soft)}
table{border-collapse:collapse;width:100%;margin:8px 0}
th,td{text-align:left;padding:6px 10px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:13px}
.passed{color:var(--ok);font-weight:600}.failed{color:var(--bad);font-weight:600}
.undecided{color:var(--open);font-weight:600}
.verdict{display:inline-block;padding:2px 12px;border:2px solid;border-radius:4px;font-size:18px}
figure{display:inline-block;margin:6px 14px 6px 0;font-size:13px}figcaption{color:var(--soft)}
img{image-rendering:pixelated;display:block;border:1px solid var(--line)}
code{background:#eef1f4;padding:1px 5px;font-size:13px}
pre{background:#eef1f4;padding:12px;white-space:pre-wrap;font-size:13px}
@media print{body{background:#fff}main{border:0;margin:0;padding:0}}
"""


def page(about: Mapping[str, Any], worst: Mapping[str, np.ndarray]) -> bytes:
    """Return the page as HTML in UTF-8.

    `about` is the manifest without its files; `worst` holds the worst pairs of each runtime, (n, 2,
    h, w, 3) uint8, full precision first.
    """
    evidence = about["evidence"]
    found: Mapping[str, Any] = evidence["runtimes"]
    body = "".join(
        [
            *_title(about, found),
            *_terms(next(iter(found.values()))),
            *(part for name in found for part in _runtime(name, found[name], worst[name])),
            *_tested(about, next(iter(found.values()))),
            *_again(about),
        ]
    )
    name = escape(about["source"]["name"])
    html = (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{name}: INT8 quality certificate</title><style>{STYLE}</style>"
        f"<main>{body}</main></html>\n"
    )
    return html.encode()


def _title(about: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h1>{escape(about['source']['name'])}: are its INT8 images as good?</h1>"
    yield (
        f"<p class=soft>Family {escape(about['family'])}, made with edgegen "
        f"{escape(__version__)}. Every figure on this page is in <code>manifest.json</code>, "
        "and <code>edgegen verify</code> finds it again or exits with 3.</p>"
    )
    rows = [
        [escape(name), _state(one["state"], "verdict"), escape(_sentence(one))]
        for name, one in found.items()
    ]
    yield _table(["runtime", "verdict", "in one sentence"], rows)


def _sentence(one: Mapping[str, Any]) -> str:
    tail = one["gates"]["ruined"]
    said = "The distance to a reference is not counted"
    if one["verdict"] != NOT_COUNTED:
        said = f"The distance to the reference changes by {_interval(one['change'])}"
    return (
        f"{said}; "
        f"{tail['ruined']:,} of {tail['pairs']:,} images are ruined, so at most "
        f"{tail['at_most']:.2%} of all; PSNR {_decibel(one['psnr_db'])}."
    )


def _terms(one: Mapping[str, Any]) -> Iterator[str]:
    terms, gates = one["terms"], one["gates"]
    yield "<h2>The terms</h2><p>All have to hold. None can make up for another.</p>"
    is_counted = one["verdict"] != NOT_COUNTED
    most, alone = f"by no more than {terms['budget']:.1%}", ", and alone changes the distance "
    rows = [
        ["Distance to the reference photos", f"changes {most}" if is_counted else NOT_COUNTED],
        ["PSNR to full precision", f"at least {terms['psnr']:g} dB over all images"],
        [
            "Each class by itself",
            f"at least {gates['class_limit_db']:g} dB{alone + most if is_counted else ''}",
        ],
        [
            "Ruined images",
            f"at most {terms['ruined']:.2%} of all: below 25 dB, or a part of the picture is lost",
        ],
        [
            "Movement, without any reference",
            f"features move by at most {terms['moved']:.1%} of what another seed moves them; the "
            f"two sets are apart by at most {terms['apart']:.1%} of it",
        ],
    ]
    yield _table(["what", "asked"], [[escape(cell) for cell in row] for row in rows])


def _runtime(name: str, one: Mapping[str, Any], worst: np.ndarray) -> Iterator[str]:
    yield f"<h2>{escape(name)}: {_state(one['state'])}</h2>"
    classes = sorted(one["gates"]["classes"], key=_badness)
    yield _table(["gate", "found", "holds at", ""], _gates(one, classes))
    if one.get("distance_is_large"):
        yield f"<p>{escape(DISTANCE_IS_LARGE[0].upper() + DISTANCE_IS_LARGE[1:])}</p>"
    yield f"<p>{escape(_power(one))}</p>"
    if classes:
        yield "<h3>Every class</h3>"
        rows = [
            [
                escape(c["class"]),
                f"{c['pairs']:,}",
                _decibel(c["psnr_db"]),
                _interval(c["change"]) if c["change"] else NOT_COUNTED,
                _state(c["state"]),
            ]
            for c in classes
        ]
        yield _table(["class", "pairs", "PSNR", "change of the distance, alone", ""], rows)
    yield "<h3>The worst pairs of all, as they are</h3>"
    yield "<p class=soft>Full precision on the left, INT8 on the right.</p>"
    for pair, images in zip(one["worst_pairs"], worst, strict=True):
        said = f"seed {pair['seed']}, {_decibel(pair['psnr_db'])}"
        said += ", counted as ruined" if pair["ruined"] else ""
        data = base64.b64encode(png(grid(images, 2), max(1, 96 // images.shape[1]))).decode()
        yield (
            f'<figure><img alt="full precision and INT8, {escape(said)}" '
            f'src="data:image/png;base64,{data}"><figcaption>{escape(said)}</figcaption></figure>'
        )


def _gates(one: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]) -> Rows:
    """Return the rows of the gates: what each found, the level at which it holds, and its state."""
    gates, tail = one["gates"], one["gates"]["ruined"]
    psnr = gates["psnr"]
    found = [
        ("Distance", _distance(one), one["verdict"]),
        ("PSNR", f"{_decibel(one['psnr_db'])}, at least {_decibel(psnr['low_db'])}", psnr["state"]),
        *((f"Worst class: {c['class']}", _class_text(c), c["state"]) for c in classes[:1]),
        ("Moved", _share(gates["moved"]), gates["moved"]["state"]),
        ("Apart", _share(gates["apart"]), gates["apart"]["state"]),
        *(
            (f"{title}, second judge", _share(second[name]), second[name]["state"])
            for title, name in (("Moved", "moved"), ("Apart", "apart"))
            for second in [one.get("second_judge")]
            if second
        ),
    ]
    level = f"{one['look_level']:.2%}"
    return [
        *([escape(name), text, level, _state(state)] for name, text, state in found),
        [
            "Ruined",
            f"{tail['ruined']:,} of {tail['pairs']:,}, at most {tail['at_most']:.2%}",
            f"{tail['level']:.2%}",
            _state(tail["state"]),
        ],
    ]


def _distance(one: Mapping[str, Any]) -> str:
    """Describe the change of the distance, or why there is none."""
    if one["change"]["value"] is None:
        return "none: no reference was asked for, or there are too few pairs for it"
    return f"{_interval(one['change'])} of {one['distance_full']['value']:.1f}"


def _power(one: Mapping[str, Any]) -> str:
    """Say which damage the test would have found in eight of ten repetitions, at least."""
    change, level, tail = one["change"], one["look_level"], one["gates"]["ruined"]
    normal, what = NormalDist(), "the distance"
    if one["verdict"] == NOT_COUNTED:
        change, what = one["gates"]["moved"], "what another seed moves features"
    others = "every other limit that is broken passes in no more than half of that."
    if one["images"] < LEAST_PAIRS:
        others = FEW_PAIRS
    half = (change["high"] - change["low"]) / 2
    seen = half * (1 + normal.inv_cdf(0.8) / normal.inv_cdf((1 + level) / 2))
    return (
        f"The smallest change this test could have seen: {seen:.2%} of {what} in eight of "
        f"ten repetitions, from {one['images']:,} pairs. A share of ruined images of "
        f"{tail['limit']:.2%} or more passes in no more than {1 - one['level']:.1%} of exports, "
        f"all looks together; {others}"
    )


def _tested(about: Mapping[str, Any], one: Mapping[str, Any]) -> Iterator[str]:
    tail, machine = one["gates"]["ruined"], about["evidence"]["machine"]
    corrected = (
        "none counted"
        if one["reference"] is None
        else (
            "its own number of photos is corrected for"
            if one["reference_corrected"]
            else "of an older edgegen: its own number of photos adds to the distance"
        )
    )
    hashed = one["reference_sha256"]
    named = f"{one['reference']}, sha256 {hashed[:16]}; " if hashed else ""
    directions = "main directions of the reference" if hashed else "all of them"
    yield "<h2>What was tested</h2>"
    rows = [
        [
            "Images",
            f"{one['images']:,} pairs of equal seeds with features, {tail['pairs']:,} by "
            f"pixels, from seed {one['first_seed']:,} on; none took part in calibration or search",
        ],
        ["Features", f"{one['features']} at {one['size']} px, {directions}"],
        *_second_judge(one),
        ["Reference", f"{named}{corrected}"],
        [
            "Looks",
            f"after {_counts(one['looks'])} pairs with features and "
            f"{_counts(tail['looks'])} by pixels; all hold together at {one['level']:.2%}",
        ],
        ["Quantization", about["scheme"]],
        ["Machine", f"{machine['cpu']}, numpy {machine['numpy']}"],
    ]
    yield _table(["", ""], [[escape(cell) for cell in row] for row in rows])


def _second_judge(one: Mapping[str, Any]) -> Iterator[list[str]]:
    if second := one.get("second_judge"):
        yield [
            "Second judge",
            f"{second['features']} at {second['size']} px, sha256 {second['sha256'][:16]}: a "
            "network of another kind, which has to agree; its limits are those of the first",
        ]


def _again(about: Mapping[str, Any]) -> Iterator[str]:
    one = next(iter(about["evidence"]["runtimes"].values()))
    terms = one["terms"]
    flags = (
        f"--fid-budget {_exactly(terms['budget'])} --min-psnr {terms['psnr']:g} "
        f"--max-ruined {_exactly(terms['ruined'])} --max-moved {_exactly(terms['moved'])} "
        f"--max-apart {_exactly(terms['apart'])}"
    )
    flags += " --no-reference" if one["verdict"] == NOT_COUNTED else ""
    flags += _flag_of_second(one)
    yield (
        "<h2>Recompute it yourself</h2><p>The first command makes the same images again and holds "
        "every figure of the manifest to what it finds. The second judges seeds that your "
        "operating system draws: nobody can have chosen them, however often the export was "
        "tried.</p>"
        f"<pre>edgegen verify THIS_BUNDLE {escape(flags)}\n"
        f"edgegen verify THIS_BUNDLE {escape(flags)} --fresh-seeds</pre>"
        "<p class=soft>The page says what was measured of these images, seeds and features. It "
        "does not say that the full-precision generator is good, and it is no signature: who made "
        "the bundle, <code>--public-key</code> tells.</p>"
    )


def _exactly(share: float) -> str:
    """Write a share in percent with as many digits as it was given with."""
    return f"{100 * share:.10g}%"


def _flag_of_second(one: Mapping[str, Any]) -> str:
    second = one.get("second_judge")
    return f" --second-judge {asked_with(second['features'])}" if second else ""


def _table(head: Sequence[str], rows: Rows) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{lines}</table>"


def _state(state: str, more: str = "") -> str:
    word = WORDS[state]
    return f'<span class="{f"{word} {more}".strip()}">{word}</span>'


def _interval(found: Mapping[str, float]) -> str:
    return f"{found['value']:+.2%} ({found['low']:+.2%} to {found['high']:+.2%})"


def _share(gate: Mapping[str, float]) -> str:
    return f"{gate['value']:.2%}, at most {gate['high']:.2%} where {gate['limit']:.1%} pass"


def _decibel(value: float | None) -> str:
    return "equal" if value is None else f"{value:.1f} dB"


def _class_text(one: Mapping[str, Any]) -> str:
    return f"{_decibel(one['psnr_db'])}, at least {_decibel(one['psnr_low_db'])}"


def _badness(one: Mapping[str, Any]) -> tuple[int, float]:
    order = ("outside", "undecided", "within")
    return order.index(one["state"]), 999.0 if one["psnr_db"] is None else one["psnr_db"]


def _counts(looks: Sequence[int]) -> str:
    return ", ".join(f"{count:,}" for count in looks) or "no"
