"""Figures, each drawn from a query, and their common style."""
