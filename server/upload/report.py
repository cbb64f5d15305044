"""The importer's lines as JSON: what it recognised, its warnings, and its summary or its refusals."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from server.upload.order import UploadOrder

# The labels of the lines that docs/import.md shows; any other line before the last one is a warning.
_FACT = re.compile(
    r"(Columns|Times|Rows|Left out|Holes|Covered|Time zone of .{1,128}?|[A-Z][a-z]+(?: [a-z]+){0,2}): (.+)"
)
_ROWS = re.compile(r"([\d,]+) of (\w+), from (\S+) to (\S+)\.")


def accepted(order: UploadOrder, lines: Sequence[str]) -> dict[str, Any]:
    """The answer to an import, or to its dry run."""
    name = order.target
    facts, warnings = split_lines(lines[:-1])
    return {
        "dryRun": order.options.dry_run,
        "file": order.file,
        "market": name.market,
        "provider": name.provider,
        "symbol": name.symbol,
        **_extent(facts),
        "summary": lines[-1],
        "facts": facts,
        "warnings": warnings,
    }


def split_lines(lines: Sequence[str]) -> tuple[list[dict[str, str]], list[str]]:
    """The facts that the importer found, each with its label, and its other lines."""
    facts, others = [], []
    for line in lines:
        if match := _FACT.fullmatch(line):
            facts.append({"label": match[1], "text": match[2]})
        elif line:
            others.append(line)
    return facts, others


def _extent(facts: Sequence[dict[str, str]]) -> dict[str, Any]:
    """The rows of the file, their timeframe, and the openings of the first and the last of them."""
    text = next((fact["text"] for fact in facts if fact["label"] == "Rows"), "")
    match = _ROWS.fullmatch(text)
    if match is None:
        return {"rows": None, "timeframe": None, "first": None, "last": None}
    return {"rows": int(match[1].replace(",", "")), "timeframe": match[2], "first": match[3], "last": match[4]}
