"""The aggregates: continuous ones, their refresh, and their verification."""
