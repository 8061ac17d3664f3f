"""Compares architectures and objectives in studies under an equal budget."""
