-- The cells that tables show: one for each line and T.
SELECT cell_id FROM current_cells ORDER BY cell_id
