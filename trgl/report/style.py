"""The page's style sheet: light and dark, wide and narrow, paper."""

from __future__ import annotations

from collections.abc import Sequence

from trgl.report.chart import DARK, DARK_MODULES, LIGHT, LIGHT_MODULES


def _colours(series: Sequence[str], modules: Sequence[str]) -> str:
    named = [(f"s{i}", value) for i, value in enumerate(series)]
    named += [(f"m{i}", value) for i, value in enumerate(modules)]
    return "".join(f"--{name}:{value};" for name, value in named)


_LIGHT = (
    "--page:#f6f7f9;--card:#ffffff;--ink:#1a1d21;--soft:#555c66;--line:#d5d9df;--grid:#e6e9ed;"
    "--accent:#0b5cad;--warn:#8a3b00;--warn-card:#fff4e8;" + _colours(LIGHT, LIGHT_MODULES)
)
_DARK = (
    "--page:#111418;--card:#1a1e24;--ink:#e8eaed;--soft:#a9b1bc;--line:#3a414b;--grid:#2a3038;"
    "--accent:#7cbcff;--warn:#ffc48a;--warn-card:#2d2216;" + _colours(DARK, DARK_MODULES)
)
_PLACES = [f"s{i}" for i in range(len(LIGHT))] + [f"m{i}" for i in range(len(LIGHT_MODULES))]
_CLASSES = "".join(f".{p}{{--c:var(--{p})}}" for p in _PLACES)

STYLE = (
    f":root{{color-scheme:light dark;{_LIGHT}}}"
    f"@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
    f"{_CLASSES}"
    """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main,header,footer{max-width:70rem;margin:0 auto;padding:0 1rem}
header{padding-top:1.5rem}
h1{font-size:1.65rem;line-height:1.25;margin:0 0 .4rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;line-height:1.3;margin:0 0 .35rem}
h3{font-size:.95rem;margin:.2rem 0;font-weight:600;overflow-wrap:anywhere}
p{margin:.3rem 0 .7rem;max-width:52rem}
.soft,figcaption,footer{color:var(--soft)}
section{background:var(--card);border:1px solid var(--line);border-radius:.6rem;
padding:1rem 1.1rem;margin:1rem 0;scroll-margin-top:.5rem}
nav ul{display:flex;flex-wrap:wrap;gap:.15rem 1rem;list-style:none;margin:.3rem 0;padding:0}
a{color:var(--accent)}
nav a{display:inline-block;padding:.2rem 0}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
.skip{position:absolute;left:-99rem}
.skip:focus{left:1rem;top:.5rem;background:var(--card);padding:.4rem .8rem;z-index:1}
.warn{background:var(--warn-card);border-left:.25rem solid var(--warn);padding:.5rem .8rem;
margin:.5rem 0;max-width:none}
.scroll{overflow-x:auto;margin:.4rem 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .9rem .35rem 0;text-align:left;vertical-align:top;
border-bottom:1px solid var(--grid)}
thead th{border-bottom:1px solid var(--line);font-weight:600;vertical-align:bottom}
tbody th{font-weight:500}
tbody th:not(.n){min-width:8.5rem}
td.n,th.n{text-align:right;white-space:nowrap}
thead th.n{white-space:normal;max-width:8.5rem}
td.long{overflow-wrap:anywhere;min-width:6.5rem}
tr.changed th::after{content:" (changed)";color:var(--warn)}
figure{margin:0}
figcaption{font-size:.9rem;margin-top:.4rem}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(19rem,100%),1fr));gap:1rem}
svg{display:block;width:100%;height:auto;overflow:visible}
.panels svg{max-width:27rem}
svg text{font-size:12px;fill:var(--soft)}
svg .axis{fill:var(--ink)}
.grid{stroke:var(--grid);fill:none}
.base{stroke:var(--soft);fill:none}
.line{stroke:var(--c);stroke-width:2;fill:none;stroke-linejoin:round}
.dash{stroke-dasharray:6 4}
.band{fill:var(--c);opacity:.16}
.mark{fill:var(--c);stroke:var(--card);stroke-width:1}
.key{display:inline-block;width:30px;height:14px;vertical-align:middle;margin-right:.4rem}
.legend{display:flex;flex-wrap:wrap;gap:.15rem 1.3rem;list-style:none;margin:.3rem 0 .6rem;
padding:0;font-size:.92rem}
.ramp{display:flex;align-items:center;gap:.5rem;font-size:.92rem;margin:.3rem 0 .6rem}
.ramp i{display:inline-block;width:1.1rem;height:.55rem;background:var(--c)}
.ramp span{display:inline-flex}
.narrow{display:none}
details{margin-top:.7rem}
summary{cursor:pointer;color:var(--accent);padding:.2rem 0}
footer{font-size:.88rem;padding-bottom:2rem}
@media (max-width:40rem){
.wide{display:none}.narrow{display:block}
section{padding:.8rem .8rem;border-radius:.4rem}
h1{font-size:1.35rem}
main,header,footer{padding-left:.6rem;padding-right:.6rem}
}
@media print{section{break-inside:avoid;border:0}nav{display:none}}
"""
)
