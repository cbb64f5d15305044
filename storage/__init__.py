"""The store: PostgreSQL (embedded or external) and caches; one relation, one file."""
