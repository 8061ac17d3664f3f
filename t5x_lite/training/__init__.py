"""Training: a run, its loop, and what it writes."""
