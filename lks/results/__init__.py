"""Stored results: cells and outcomes, rows and shards of raw answers, the catalogue and metrics in SQL."""
