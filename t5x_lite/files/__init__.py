"""Reads text and JSON files, and writes files atomically."""
