"""Ways to run the cells of a grid: in this process, in child processes or on a work pool; progress,
estimates.
"""
