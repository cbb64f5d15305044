"""Recognises where a file comes from, by the records of origins.py, and lists them for the docs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from providers.tables.origins import ORIGINS, FileOrigin

# Arrays and files without names whose order the rows prove: see order.py.
ORDERS = {
    "time low high open close": "Coinbase",
    "time open close high low": "Bitfinex and KuCoin",
}


def recognise(names: AbstractSet[str], first: Sequence[str], file: str) -> FileOrigin | None:
    """The origin of a file, from the plain names of its columns (empty without a header), its first row and its path."""
    row = "|".join(cell.strip() for cell in first)
    for origin in ORIGINS:
        if origin.header and not origin.header <= names:
            continue
        if not origin.header and names:
            continue
        if origin.cells and not re.fullmatch(origin.cells, row):
            continue
        if origin.file and not re.fullmatch(origin.file, file.lower()):
            continue
        return origin
    return None


def table() -> str:
    """The recognisers as the table of docs/import.md."""
    rows = [f"| {origin.name} | {origin.proof} | {origin.read} |" for origin in ORIGINS]
    rows += [
        f"| {name} | no header, in the order {fields.replace('time ', '')}, as the rows prove | as in the table |"
        for fields, name in ORDERS.items()
    ]
    return "\n".join(["| origin | recognised by | read |", "|---|---|---|", *rows])
