"""Backfills: jobs, the workers that run them, and tracked series."""
