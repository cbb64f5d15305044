"""The embedded PostgreSQL. It imports nothing else of `storage`."""
