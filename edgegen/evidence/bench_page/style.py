"""Style the page of a bench for light, dark and paper, and script what it does: sort a table, and
slide between two pictures.
"""

from __future__ import annotations

# Colours of Okabe and Ito (2008), which people with any colour vision can distinguish; shapes
# repeat the distinction.
_LIGHT = """--ink:#16202b;--soft:#55636f;--line:#d3dae1;--ground:#fff;--panel:#f4f6f8;
--ok:#0b6e3c;--bad:#a61c14;--open:#7a5200;
--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#a8548a;--c4:#b07800;--c5:#2b8cbe;--c6:#555;--c7:#8c2d04"""
_DARK = """--ink:#e8edf2;--soft:#a7b3be;--line:#3a4653;--ground:#12181f;--panel:#1b232c;
--ok:#5ad08f;--bad:#ff8f85;--open:#f0c35a;
--c0:#56b4e9;--c1:#ff9a4d;--c2:#3fd0a4;--c3:#e39bc7;--c4:#f0c35a;--c5:#9ad5f5;--c6:#b5b5b5;--c7:#e0875a"""
COLOURS = 8
THEME = (
    f":root{{color-scheme:light dark;{_LIGHT}}}"
    f"@media screen and (prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
)
# styles of the charts, in the page and in files of their own
CHART = (
    "svg.chart{font:13px system-ui,sans-serif;fill:var(--ink);background:var(--ground)}"
    ".chart .axis,.chart .grid{stroke:var(--line);stroke-width:1}"
    ".chart .soft{fill:var(--soft)}.chart .band{fill:var(--panel)}"
    ".chart .limit{stroke:var(--bad);stroke-dasharray:6 4}"
    ".chart .front{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:2 3;fill:none}"
    ".chart .ring{stroke:var(--ink);stroke-width:1.5;fill:none}"
    + "".join(
        f".chart .c{k}{{stroke:var(--c{k});fill:var(--c{k})}}"
        f".chart .hollow.c{k}{{fill:var(--ground);stroke-width:2.5}}"
        for k in range(COLOURS)
    )
)
PAGE = (
    THEME
    + CHART
    + """
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1320px;margin:0 auto;padding:24px 20px 60px}
h1{font-size:26px;margin:0 0 4px;line-height:1.2}h2{font-size:19px;margin:40px 0 8px}
h3{font-size:15px;margin:22px 0 6px}p,li{max-width:80ch;margin:6px 0}
.soft,small{color:var(--soft)}small{font-size:12.5px}
.box{overflow-x:auto;border:1px solid var(--line);border-radius:6px;margin:10px 0}
.box.bare{border:0;border-radius:0}
.box svg{display:block;min-width:620px;width:100%;max-width:860px;height:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th,td{padding:7px 12px;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
tr:last-child td{border-bottom:0}th{background:var(--panel);font-weight:600;white-space:nowrap}
td.n{text-align:right;white-space:nowrap}td.state{min-width:15rem}td.wide{min-width:17rem}
td.name{min-width:9rem;max-width:16rem}
td small{display:block;max-width:38ch}td.n small{white-space:nowrap}
.stages small{max-width:none}.stages td:nth-child(2){width:70%}
th button{font:inherit;color:inherit;background:none;border:0;padding:0;cursor:pointer}
th button::after{content:" \\2195";color:var(--soft)}
th[aria-sort=ascending] button::after{content:" \\2191";color:var(--ink)}
th[aria-sort=descending] button::after{content:" \\2193";color:var(--ink)}
:focus-visible{outline:3px solid var(--c0);outline-offset:2px}
.within,.passed{color:var(--ok);font-weight:600}
.outside,.failed{color:var(--bad);font-weight:600}
.undecided,.unstable{color:var(--open);font-weight:600}.skipped{color:var(--soft);font-weight:600}
.bar{display:flex;height:22px;min-width:280px;background:var(--panel)}
.bar span{display:block;height:100%;border-right:1px solid var(--ground);print-color-adjust:exact;
-webkit-print-color-adjust:exact}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;padding:0;list-style:none}
.key i{display:inline-block;width:14px;height:14px;margin-right:6px;vertical-align:-2px;
print-color-adjust:exact;-webkit-print-color-adjust:exact}
"""
    + "".join(f".s{k}{{background:var(--c{k})}}" for k in range(COLOURS))
    + """
.tiles{display:flex;flex-wrap:wrap;gap:14px}figure{margin:0 0 10px}
figcaption{color:var(--soft);font-size:13px;margin-top:3px}
.tiles figure{max-width:260px}.worst figure{max-width:none}.worst figcaption{max-width:22ch}
.tiles svg{display:block;width:260px;height:auto;border:1px solid var(--line);border-radius:6px}
img{display:block;image-rendering:pixelated;max-width:none;background:var(--panel)}
.pair{position:relative;overflow:hidden;border:1px solid var(--line);--cut:50%}
.pair img+img{position:absolute;inset:0;clip-path:inset(0 0 0 var(--cut))}
.pair::after{content:"";position:absolute;top:0;bottom:0;left:var(--cut);width:2px;
background:#fff;mix-blend-mode:difference}
.slide{display:flex;align-items:center;gap:10px;margin:6px 0;max-width:520px}
.slide input{flex:1;min-width:80px}
pre{background:var(--panel);padding:10px 12px;margin:8px 0;white-space:pre-wrap;
overflow-wrap:anywhere;font-size:13px;border-radius:6px}
code{overflow-wrap:anywhere;font-size:13px}
@media(max-width:600px){main{padding:16px 12px 40px}h1{font-size:22px}th,td{padding:6px 8px}}
@media print{main{max-width:none;padding:0}.box{overflow:visible;border:0}
h2{break-after:avoid}figure,tr,.tiles figure{break-inside:avoid}.slide,.screen{display:none}
.box svg{min-width:0}table{font-size:9px}th,td{padding:2px 4px;white-space:normal}
th{white-space:normal}th button::after{content:""}td.n,td.name{white-space:normal}
td.state,td.wide{min-width:0}td small{font-size:8.5px}td.n small{white-space:normal}
.bar{min-width:150px}
.pair{overflow:visible;border:0;display:flex;gap:4px}
.pair img+img{position:static;clip-path:none}.pair::after{content:none}
.tiles svg{width:200px}@page{size:A4 landscape;margin:12mm}}
"""
)
SCRIPT = """"use strict";
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = row => row.cells[head.cellIndex].dataset.v;
    const number = text => text !== "" && !Number.isNaN(Number(text));
    const order = (a, b) => {
      const x = value(a), y = value(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const found = number(x) && number(y) ? Number(x) - Number(y) : x.localeCompare(y);
      return down ? -found : found;
    };
    body.append(...[...body.rows].sort(order));
  });
}
for (const slider of document.querySelectorAll("input[type=range]")) {
  const cut = () => {
    for (const pair of slider.closest("section").querySelectorAll(".pair"))
      pair.style.setProperty("--cut", slider.value + "%");
  };
  slider.addEventListener("input", cut);
  cut();
}
"""
