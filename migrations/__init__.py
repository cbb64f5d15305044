"""Numbered SQL files, applied in order and never changed after a release."""
