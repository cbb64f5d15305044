"""The SQL of the backfills, of their parts and of tracked series."""

from storage.database import named_statements

SQL = named_statements("history.backfill")
