"""Named grids, their cells, and running one cell: drawing, editing, asking and storing."""
