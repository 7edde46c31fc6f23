"""Look of the report page: its style sheet and the helpers that turn values into escaped text."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

CSS = """
:root{color-scheme:light dark;--page:#fbfaf7;--card:#fff;--ink:#1d2226;--muted:#656d73;--line:#e2e0d9;--bar:#b9bfc3;
    --accent:#0f7173;--good:#1f7a4d;--bad:#b3402e;--flat:#8a6a12;--shade:#f3f1eb;
    --sans:"Inter","Source Sans 3",ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",
    "Liberation Sans",Arial,sans-serif;
    --mono:ui-monospace,"SF Mono","Cascadia Mono","DejaVu Sans Mono",Menlo,Consolas,monospace}
@media (prefers-color-scheme:dark) {
  :root{--page:#14181a;--card:#1b2023;--ink:#e7e8e6;--muted:#98a1a6;--line:#2f363a;--bar:#56616a;--accent:#45b3ad;
    --good:#5cc08d;--bad:#ec8370;--flat:#d9b55a;--shade:#22282c}
}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 var(--sans);-webkit-text-size-adjust:100%}
main,header,footer{max-width:66rem;margin:0 auto;padding:0 1.5rem}
header{padding-top:3.5rem}
footer{padding-top:1rem;padding-bottom:4rem;color:var(--muted);font-size:.85rem}
h1{font-size:2.4rem;line-height:1.15;letter-spacing:-.02em;margin:.1em 0 .3em;font-weight:680;overflow-wrap:anywhere}
h2{font-size:1.3rem;letter-spacing:-.01em;margin:3.4rem 0 .4rem;font-weight:650}
h3{font-size:.95rem;margin:1.9rem 0 .5rem;font-weight:650}
p{margin:.4rem 0 1rem;max-width:46rem}
.eyebrow{color:var(--accent);font-weight:650;font-size:.8rem;letter-spacing:.09em;text-transform:uppercase;margin:0}
.lede{color:var(--muted);font-size:1.06rem;margin:0}
.lede b{color:var(--ink);font-weight:600}
.note{color:var(--muted);font-size:.9rem}
nav{margin:1.1rem 0 0;padding-top:.8rem;border-top:1px solid var(--line);font-size:.88rem;display:flex;flex-wrap:wrap;
    gap:.2rem 1.2rem}
a{color:var(--accent);text-decoration:none}
a:hover{text-decoration:underline}
.verdict{margin-top:2rem;padding:1.5rem 1.7rem;background:var(--card);border:1px solid var(--line);
    border-left:5px solid var(--tone);border-radius:6px}
.verdict p{font-size:1.06rem;margin:.9rem 0 0;max-width:none}
.verdict .headline{font-weight:650;color:var(--tone)}
.better{--tone:var(--good)}
.worse{--tone:var(--bad)}
.flat{--tone:var(--flat)}
.none{--tone:var(--muted)}
.figures{display:flex;flex-wrap:wrap;gap:.6rem 3rem}
.figures div{min-width:7rem}
.figures b{display:block;font-size:2.15rem;line-height:1.15;font-weight:650;letter-spacing:-.02em;
    font-variant-numeric:tabular-nums}
.figures span{color:var(--muted);font-size:.88rem}
.figures .tone{color:var(--tone)}
.scroll{overflow-x:auto;margin:.6rem 0 1rem}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;min-width:100%}
th{font-weight:600;color:var(--muted);text-align:left;font-size:.82rem;vertical-align:bottom}
td,th{padding:.42rem .9rem .42rem 0;border-bottom:1px solid var(--line);white-space:nowrap}
td.n,th.n{text-align:right;padding-left:.6rem}
td.wrap{white-space:normal;min-width:14rem}
tr.ours td{background:color-mix(in srgb,var(--accent) 9%,transparent)}
tr.ours td:first-child{color:var(--accent);font-weight:650}
tr.total td{border-bottom:0;font-weight:600}
td:first-child,th:first-child{padding-left:.5rem}
code{font-family:var(--mono);font-size:.84em;color:var(--muted);overflow-wrap:anywhere}
.plot{display:block;width:100%;height:auto;font-family:var(--sans)}
.plot.narrow{display:none}
.plot.small{max-width:26rem}
table.broken th{white-space:normal;min-width:4.5rem}
table.broken td.wrap{min-width:11rem}
td.part{padding-left:1.6rem!important;color:var(--muted)}
.warnings{margin:1.2rem 0;padding:.1rem 1.2rem;background:var(--card);border:1px solid var(--line);
    border-left:5px solid var(--flat);border-radius:6px}
.warnings h3{margin-top:.8rem;color:var(--flat)}
.warnings ul{margin:.2rem 0 .9rem;padding-left:1.1rem;max-width:56rem}
.gallery{display:grid;grid-template-columns:repeat(auto-fill,minmax(14rem,1fr));gap:1.4rem;margin:1rem 0}
.wrong{font-size:.93rem}
.wrong img,.wrong .missing{width:100%;max-height:14rem;object-fit:contain;border-radius:6px;display:block;
    background:var(--shade);border:1px solid var(--line)}
.wrong img.small{image-rendering:pixelated}
.wrong p{margin:.5rem 0 .3rem;white-space:pre-line;overflow-wrap:anywhere}
.wrong dl{margin:0;display:grid;grid-template-columns:auto 1fr;gap:.1rem .8rem}
.sample{display:grid;grid-template-columns:11rem 1fr;gap:1.5rem;padding:1.4rem 0;border-top:1px solid var(--line)}
.sample img,.sample .missing{width:11rem;border-radius:6px;display:block;background:var(--shade);
    border:1px solid var(--line)}
.sample img.small{image-rendering:pixelated}
.missing{padding:3rem 1rem;color:var(--muted);font-size:.85rem;text-align:center}
.sample dl{margin:0 0 .9rem;display:grid;grid-template-columns:auto 1fr;gap:.15rem .9rem;font-size:.93rem}
dt{color:var(--muted)}
dd{margin:0;overflow-wrap:anywhere}
ul.pairs{list-style:none;margin:0;padding:0;font-size:.93rem}
ul.pairs li{display:grid;grid-template-columns:1.3rem 1fr auto;gap:.1rem .5rem;padding:.34rem 0;
    border-top:1px dotted var(--line)}
ul.pairs li.empty{display:block;color:var(--muted)}
ul.pairs b{font-weight:650}
.mark{font-weight:700}
.yes{color:var(--good)}
.no{color:var(--bad)}
.rejected .qa{color:var(--muted)}
.meta{color:var(--muted);font-size:.82rem;text-align:right;font-variant-numeric:tabular-nums}
.reason{color:var(--bad)}
.qa{overflow-wrap:anywhere}
.bars{display:grid;grid-template-columns:max-content 1fr max-content;gap:.4rem 1rem;align-items:center;
    font-size:.92rem;margin:.8rem 0}
.bars i{display:block;height:.8rem;border-radius:2px;background:var(--bar);min-width:1px}
.bars i.accepted{background:var(--good)}
.bars span:nth-child(3n){text-align:right;font-variant-numeric:tabular-nums;color:var(--muted)}
table.heat{min-width:0;border-collapse:separate;border-spacing:2px;font-size:.8rem}
table.heat td,table.heat th{border:0;padding:.28rem .4rem;text-align:center;line-height:1.2}
table.heat th.module{text-align:right;vertical-align:middle;position:sticky;left:0;background:var(--page);
    font-family:var(--mono);font-weight:500;color:var(--ink);padding-right:.7rem;
    font-size:.78rem}
table.heat td{min-width:3rem;border-radius:3px;background:color-mix(in srgb,var(--accent) var(--mix),var(--shade))}
table.heat td small{display:block;color:var(--muted);font-size:.68rem}
table.heat td.sum,table.heat td.gap{background:none}
table.heat td.sum{color:var(--muted)}
table.heat td.deep small{color:inherit;opacity:.75}
.state{white-space:nowrap}
.state::before{content:"";display:inline-block;width:.55em;height:.55em;border-radius:50%;margin-right:.5em;
    background:var(--bar)}
.state.done::before{background:var(--good)}
.state.failed::before{background:var(--bad)}
.share{display:block;height:.5rem;background:var(--bar);border-radius:2px;min-width:1px}
td.bar{width:26%;min-width:6rem}
details{margin:1rem 0}
summary{cursor:pointer;color:var(--accent);font-size:.92rem}
dl.facts{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1.4rem;font-size:.92rem}
@media (max-width:40rem) {
  .sample{grid-template-columns:1fr}
  ul.pairs li{grid-template-columns:1.3rem 1fr}
  .meta{grid-column:2;text-align:left}
  .plot.wide{display:none}
  .plot.narrow{display:block}
  main,header,footer{padding-left:1rem;padding-right:1rem}
  h1{font-size:1.8rem}
}
@media print {
  body{font-size:11pt;background:#fff}
  nav{display:none}
  h2{break-after:avoid}
  .sample,.verdict{break-inside:avoid}
}
"""


def escape(value: object) -> str:
    """Text of a value, safe in HTML content and in quoted attributes."""
    return html.escape(str(value), quote=True)


def percent(share: float, digits: int = 1) -> str:
    """A share between 0 and 1 as "76.1 %" (with a no-break space)."""
    return f"{100 * share:.{digits}f} %"


def points(difference: float) -> str:
    """A difference of shares in percentage points with its sign, "+4.2" or "−1.3"."""
    value = round(100 * difference, 1)
    return f"{'+' if value > 0 else '−' if value < 0 else '±'}{abs(value):.1f}"


def p_value(p: float) -> str:
    """ "p = 0.0004", with two significant digits below 0.1."""
    return f"p = {p:.2f}" if p >= 0.095 else f"p = {p:.2g}" if p >= 1e-4 else f"p = {p:.1e}"


def duration(seconds: float) -> str:
    """Seconds as "4.2 s", "3 min 12 s" or "1 h 02 min"."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def count(number: int) -> str:
    """An integer with thin spaces between thousands."""
    return f"{number:,}".replace(",", " ")


def table(headers: Sequence[str], rows: Iterable[str], numeric_from: int = 1, classes: str = "") -> str:
    """A scrollable table from escaped headers and ready `<tr>` rows; headers from `numeric_from` on are right-aligned."""
    head = "".join(f"<th{' class=n' if i >= numeric_from else ''}>{name}</th>" for i, name in enumerate(headers))
    named = f' class="{classes}"' if classes else ""
    return f'<div class="scroll"><table{named}><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def bars(counts: Sequence[tuple[str, int]], accent: str = "") -> str:
    """Horizontal bars of counts with their share of the sum; the entry named `accent` is drawn in the accepted colour."""
    total = sum(number for _, number in counts) or 1
    longest = max((number for _, number in counts), default=1) or 1
    lines = [
        f"<span>{escape(name)}</span><i{' class=accepted' if name == accent else ''} "
        f'style="width:{100 * number / longest:.1f}%"></i>'
        f"<span>{count(number)} · {percent(number / total)}</span>"
        for name, number in counts
    ]
    return f'<div class="bars">{"".join(lines)}</div>'
