"""Devices: which of them hold what, and what they have room for."""
