"""Tools for engineers: edit your own model with your own facts, query and evaluate it, manage and serve
patches.
"""
