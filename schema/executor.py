"""Completing candles in bulk: whole columns at once, where plain execution visits every field of every candle.

graphql-core takes about 50 ms for a thousand candles of six fields; the answer built here is the same, in about one.
Plain execution handles anything unusual: `Candles` iterates as candle objects.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from graphql import GraphQLList, GraphQLObjectType, GraphQLOutputType, GraphQLResolveInfo, is_non_null_type
from graphql.execution.collect_fields import FieldDetailsList
from graphql.pyutils import Path
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

from candlegraph.candle import Candles
from schema.encoding import Columns, LazyRows, are_finite, reader
from schema.scalars import print_datetime

MAX_SHORT_VALUES = 2_000  # in a list that is made at once: events have one or two candles


def _times(stamps: np.ndarray) -> list[str]:
    if (stamps % 1000).any():
        return [print_datetime(stamp) for stamp in stamps.tolist()]
    texts: list[str] = np.datetime_as_string(stamps.astype("datetime64[ms]"), unit="s").tolist()
    return [text + "Z" for text in texts]


# Candle's fields that are plain columns: none has an argument, a resolver of its own or can be null.
_COLUMNS = ("timestamp", "open", "high", "low", "close", "volume", "closed", "synthetic")


class BulkExecutor(StrawberryGraphQLCoreExecutionContext):
    """Executes like Strawberry's own executor, and completes a `Candles` batch and the arrays of its columns in bulk."""

    def complete_list_value(
        self,
        return_type: GraphQLList[GraphQLOutputType],
        field_details_list: FieldDetailsList,
        info: GraphQLResolveInfo[Any],
        path: Path,
        result: Any,
        position_context: Any,
    ) -> Any:
        """Complete a list."""
        if type(result) is Candles:
            rows = self._rows(return_type, field_details_list, result)
            if rows is not None:
                return rows
        elif type(result) is LazyRows:  # a column of finite numbers
            return result if result.values > MAX_SHORT_VALUES else list(result)
        return super().complete_list_value(return_type, field_details_list, info, path, result, position_context)

    def _rows(
        self, return_type: GraphQLList[GraphQLOutputType], details: FieldDetailsList, candles: Candles
    ) -> Sequence[Any] | None:
        """The rows as dicts, or None where plain execution has to handle this selection."""
        candle = return_type.of_type
        candle = candle.of_type if is_non_null_type(candle) else candle
        if not isinstance(candle, GraphQLObjectType) or candle.name != "Candle" or _resolves(self.middleware_manager):
            return None
        fields, deferred, *_ = self.collect_subfields(candle, details)
        if deferred:
            return None
        columns: Columns = {}
        for response_name, nodes in fields.items():
            column = _column(candles, nodes[0].node.name.value)
            if column is None:
                return None
            columns[response_name] = column
        if not columns:
            return [{} for _ in range(len(candles))]
        rows = LazyRows(columns, len(candles))
        return rows if rows.values > MAX_SHORT_VALUES else list(rows)


def _column(candles: Candles, name: str) -> Callable[[slice], list[Any]] | None:
    """A reader of a field of candles; None where plain execution has to word what is wrong with a number."""
    if name == "time":
        return lambda part: _times(candles.timestamp[part])
    if name == "__typename":
        return lambda part: ["Candle"] * len(candles.timestamp[part])
    column = getattr(candles, name) if name in _COLUMNS else None
    return reader(column) if column is not None and are_finite(column) else None


def _resolves(middleware: Any) -> bool:
    return bool(middleware and middleware.middlewares)
