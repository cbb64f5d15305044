"""The SQL statements that read, refresh and verify the aggregates."""

from storage.database import named_statements

STATEMENTS = named_statements("storage.aggregates")
