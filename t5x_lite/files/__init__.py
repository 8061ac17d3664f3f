"""Reads text and JSON files, writes atomically, and names leaves of trees."""
