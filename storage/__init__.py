"""What is kept, in PostgreSQL (embedded or given) and in caches: one relation, one file."""
