"""The arguments of an upload: the series in the path, the options of an import in the query."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from typing import Any

from starlette.datastructures import QueryParams

from candlegraph import clock
from candlegraph.errors import BadUserInput, Forbidden
from candlegraph.identity import check_new_name
from candlegraph.series import Instrument
from resolvers.names import check_name
from schema.scalars import parse_timestamp
from server.cli.import_options import ImportOptions

CLOSED_MARKETS = frozenset(["demo", "files"])  # the demo invents its candles, and files belong into FILES_DIR
UNNAMED = "the file"
_MAX_NAME = 128
_NUMBER = re.compile(r"-?[0-9]{1,19}")
_OWN = ("file", "modified")


@dataclass(frozen=True, slots=True)
class UploadOrder:
    """An import of a file that the client calls ``file``, last modified at ``modified_ms`` (None: unknown)."""

    target: Instrument
    options: ImportOptions
    file: str = UNNAMED
    modified_ms: int | None = None


def read_order(path: Mapping[str, Any], query: QueryParams) -> UploadOrder:
    """Read the arguments of a request. BadUserInput, Forbidden for a market that takes no import."""
    target = Instrument(path["market"], path["provider"], path["symbol"])
    check_new_name("market", target.market)
    check_new_name("provider", target.provider)
    check_name("symbol", target.symbol)
    if target.market in CLOSED_MARKETS:
        raise Forbidden(f"The market {target.market} takes no import: choose another market.")
    known = {_argument(field.name): field for field in fields(ImportOptions)}
    for name in query:
        if name not in known and name not in _OWN:
            names = ", ".join(sorted([*known, *_OWN]))
            raise BadUserInput(f"There is no argument `{name[:32]}`: there are {names}.")
        if len(query.getlist(name)) > 1:
            raise BadUserInput(f"Give `{name}` once.")
    given: dict[str, Any] = {
        field.name: _value(field, name, query[name]) for name, field in known.items() if name in query
    }
    options = ImportOptions(**given)
    options.hints()  # refuses what excludes each other
    modified = _instant(query["modified"]) if "modified" in query else None
    return UploadOrder(target, options, shown_name(query.get("file", "")), modified)


def shown_name(text: str) -> str:
    """A file name of the client, fit for messages: its last part, without control characters."""
    last = re.split(r"[\\/]", text)[-1]
    return "".join(char for char in last if char.isprintable())[:_MAX_NAME].strip() or UNNAMED


def _argument(field: str) -> str:
    """The name of an option in the query: `dryRun` for ``dry_run``."""
    first, *rest = field.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _value(field: Field[Any], name: str, text: str) -> object:
    if field.type == "bool":
        if text not in ("true", "false"):
            raise BadUserInput(f"`{name}` is true or false, not {text[:16]!r}.")
        return text == "true"
    if field.name in ("since", "until"):
        return clock.now_ms() if text == "now" else _instant(text)
    if field.type in ("int", "float | None"):
        try:
            return int(text) if field.type == "int" else float(text)
        except ValueError:
            raise BadUserInput(f"`{name}` is a number, not {text[:16]!r}.") from None
    check_name(name, text)
    return text


def _instant(text: str) -> int:
    """A Timestamp in a query string: digits are milliseconds. A + that was not escaped arrives as a space."""
    return parse_timestamp(int(text) if _NUMBER.fullmatch(text) else text.replace(" ", "+"))
