"""The machine: settings, wiring and the command line."""
