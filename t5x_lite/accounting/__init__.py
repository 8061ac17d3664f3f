"""Counts parameters, FLOPs and bytes of a model before it is built."""
