"""Comparing two results folders, and a run with golden results."""
