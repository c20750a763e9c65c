"""Prefect flows over the library, and the command line. The only code that imports Prefect."""
