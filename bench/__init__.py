"""Benchmarks: what Kumo costs beside the same by hand. `bench/run` measures; next room: `command.py`."""
