"""Benchmarks of speed and memory, as ratios within one run: `make bench`, or `python -m benchmarks NAME ...` for some."""
