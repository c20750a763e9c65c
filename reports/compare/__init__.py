"""Comparison of two results folders, and of a run with golden results."""
