"""What is kept: PostgreSQL, embedded or given, and the question answered from it."""
