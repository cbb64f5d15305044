"""The store: PostgreSQL (embedded or external) and caches; each file is about one relation."""
