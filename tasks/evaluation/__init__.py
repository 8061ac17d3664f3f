"""Published benchmarks as seqio tasks; suites.py registers them by name."""
