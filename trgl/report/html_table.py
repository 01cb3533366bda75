"""Tables of the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_NUMBER = ' class="n"'
_WORDS = ' class="long"'


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    label: str,
    words: Sequence[int] = (0,),
    markers: Sequence[str] = (),
    classes: Sequence[str] = (),
) -> str:
    """A table that scrolls by itself where the page is too narrow; all texts are escaped.

    Args:
        header: of the columns.
        rows: texts, the first of each row its heading.
        label: what the table is called by those who hear it.
        words: columns that hold words, the others hold numbers.
        markers: HTML in front of each row's heading.
        classes: of each row.
    """
    head = "".join(
        f'<th scope="col"{"" if i in words else _NUMBER}>{escape(cell)}</th>'
        for i, cell in enumerate(header)
    )
    body = []
    for place, row in enumerate(rows):
        mark = markers[place] if markers else ""
        cells = [f'<th scope="row"{"" if 0 in words else _NUMBER}>{mark}{escape(row[0])}</th>']
        cells += [
            f"<td{_WORDS if i in words else _NUMBER}>{escape(cell)}</td>"
            for i, cell in enumerate(row[1:], 1)
        ]
        kind = f' class="{classes[place]}"' if classes and classes[place] else ""
        body.append(f"<tr{kind}>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )
