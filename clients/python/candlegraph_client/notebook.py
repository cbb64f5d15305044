"""What a notebook shows of candles: the series, whether it is complete, the first and the last rows, and the gaps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

EDGE_ROWS = 3  # shown at either end
_MAX_GAPS = 5


def to_html(attrs: Mapping[str, Any], count: int, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """HTML of candles: their ``attrs`` and number, and rows of text of which the first and the last are shown."""
    state = "complete" if attrs["complete"] else f"incomplete, gaps: {len(attrs['gaps']):,}"
    facts = f"{attrs['timeframe']}, {attrs['timezone']}, candles: {count:,}, revision {attrs['revision']}, {state}"
    shown = rows if len(rows) <= 2 * EDGE_ROWS else [*rows[:EDGE_ROWS], ["…"] * len(names), *rows[-EDGE_ROWS:]]
    gaps = [f"{gap['since']} to {gap['until']}: {gap['reason']}, {gap['detail'] or ''}" for gap in attrs["gaps"]]
    if len(gaps) > _MAX_GAPS:
        gaps[_MAX_GAPS:] = [f"and {len(gaps) - _MAX_GAPS:,} more"]
    listed = "".join(f"<li>{escape(gap)}</li>" for gap in gaps)
    table = f"<thead>{_row('th', names)}</thead><tbody>{''.join(_row('td', row) for row in shown)}</tbody>"
    return (
        f"<div><p><b>{escape(attrs['series'])}</b> {escape(facts)}</p><table>{table}</table>"
        + (f"<ul>{listed}</ul>" if gaps else "")
        + "</div>"
    )


def _row(tag: str, cells: Iterable[Any]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"
