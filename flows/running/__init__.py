"""How the cells of a grid are run: here, in child processes or on a work pool; with progress and estimates."""
