"""The SQL statements that read, refresh and verify the aggregates."""

from candlegraph.timeframe import Timeframe
from storage.database import named_statements

STATEMENTS = named_statements("storage.aggregates")


def bucket_open_sql(timeframe: Timeframe) -> str:
    """The opening of the bucket that holds a 1m candle, in SQL; the text contains only our own numbers."""
    if timeframe.months:
        return f"""date_trunc('{"year" if timeframe.months == 12 else "month"}', "timestamp", 'UTC')"""
    return f"""date_bin(interval '{timeframe.nominal_ms} ms', "timestamp", timestamptz '2000-01-03 00:00+00')"""
