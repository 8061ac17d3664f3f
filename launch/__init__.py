"""Holds the `t5x_lite` command (launch/main.py) and the launch scripts."""
