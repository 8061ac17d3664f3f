"""Defines published benchmarks as seqio tasks; suites.py registers them."""
