"""The SQL of the aggregates: how they are read, refreshed and verified."""

from storage.database import named_statements

STATEMENTS = named_statements("storage.aggregates")
