"""Named grids, their cells, and the run of one cell: drawing, editing, asking and storing."""
