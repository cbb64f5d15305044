"""The arguments of an export, which are those of the `candles` query, and the headers of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.datastructures import QueryParams

from candlegraph.errors import (
    BadUserInput,
)
from candlegraph.series_revision import SeriesRevision
from candlegraph.timeframe import Timeframe
from candlegraph.trading_calendar import SessionFilter
from candlegraph.zone import zone
from history.export import ExportRequest
from resolvers.names import check_name, provider_of
from schema.scalars import parse_timestamp
from server.export.formats import Format

_ARGUMENTS = frozenset(
    [
        "market",
        "provider",
        "symbol",
        "pattern",
        "timeframe",
        "since",
        "until",
        "before",
        "timezone",
        "session",
        "revision",
    ]
)


def read_arguments(query: QueryParams) -> ExportRequest:
    """Read the arguments of an export. BadUserInput."""
    if unknown := sorted(set(query) - _ARGUMENTS):
        raise BadUserInput(f"There is no argument `{unknown[0][:32]}`: there are {', '.join(sorted(_ARGUMENTS))}.")
    for name in _ARGUMENTS - {"symbol"}:
        if len(query.getlist(name)) > 1:
            raise BadUserInput(f"Give `{name}` once.")
    if "market" not in query or "provider" not in query:
        raise BadUserInput("Give a `market` and a `provider`.")
    if "until" in query and "before" in query:
        raise BadUserInput("`before` is another name for `until`: give one of the two.")
    market, provider = provider_of(query["market"], query["provider"])
    symbols = tuple(query.getlist("symbol"))
    for symbol in symbols:
        check_name("symbol", symbol)
    if "pattern" in query:
        check_name("pattern", query["pattern"])
    since, until = (_instant(query, name) for name in ("since", "before" if "before" in query else "until"))
    return ExportRequest(
        market,
        provider,
        Timeframe.parse(query.get("timeframe", "1m")),
        symbols,
        query.get("pattern"),
        since,
        until,
        zone(query["timezone"]) if "timezone" in query else None,
        SeriesRevision.parse(query["revision"]) if "revision" in query else None,
        session_of(query.get("session", "ALL")),
    )


def session_of(text: str) -> SessionFilter:
    """A session filter by its name. BadUserInput."""
    if text not in SessionFilter.__members__:
        raise BadUserInput(f"Unknown `session` {text[:32]!r}: there are {', '.join(SessionFilter)}.")
    return SessionFilter(text)


def _instant(query: QueryParams, name: str) -> int | None:
    """A Timestamp in a query string: digits are milliseconds. A + that was not escaped arrives as a space."""
    text = query.get(name)
    if text is None:
        return None
    is_number = text.removeprefix("-").isascii() and text.removeprefix("-").isdigit() and len(text) < 20
    return parse_timestamp(int(text) if is_number else text.replace(" ", "+"))


def headers_of(series: Sequence[dict[str, Any]], kind: Format, coding: str | None, suffix: str) -> dict[str, str]:
    """The headers of an export; those of one series say what the metadata of Arrow and Parquet say, but for long lists."""
    name = series[0]["symbol"] if len(series) == 1 else f"{len(series)} series"
    safe = "".join(char if char.isascii() and (char.isalnum() or char in ".-_ ") else "-" for char in name)
    headers = {
        "content-type": kind.media_type,
        "content-encoding": coding or "identity",
        "content-disposition": f'attachment; filename="{safe} {series[0]["timeframe"]}.{suffix}"',
        "cache-control": "no-store",
        "vary": "Accept-Encoding, Authorization, Origin",
        "x-accel-buffering": "no",
        "candlegraph-server-id": series[0]["serverId"],
        "candlegraph-series": str(len(series)),
        "candlegraph-timeframe": series[0]["timeframe"],
        "candlegraph-complete": "true" if all(one["complete"] for one in series) else "false",
        "candlegraph-gaps": str(sum(one["gapCount"] for one in series)),
    }
    if len(series) == 1:
        one = series[0]
        headers |= {
            "candlegraph-timezone": one["timezone"],
            "candlegraph-since": str(one["since"]),
            "candlegraph-until": str(one["until"]),
            "candlegraph-revision": one["revision"],
        }
    return headers


def negotiate_coding(accepted: str, codings: Sequence[str]) -> str | None:
    """The first of ``codings`` that the client accepts; None for no compression."""
    offered = set()
    for item in accepted.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        if not any(parameter.replace(" ", "") in ("q=0", "q=0.0", "q=0.00", "q=0.000") for parameter in parameters):
            offered.add(name)
    return next((coding for coding in codings if coding in offered), None)
