-- One study of the shown cells by block, means with 95 % interval: of each model and dataset the cell with the most entities.
SELECT cell_id, c.model, c.dataset, c.n_edits, s.site, s.quantity, s.block, round(s.value, 6) AS value, round(s.low, 6) AS low, round(s.high, 6) AS high,
    s.n_items, s.n_subjects
FROM study_curves s JOIN current_cells c USING (cell_id)
WHERE c.status = 'ok' AND c.measure = 'study' AND c.method = ? AND c.split = 'evaluation'
QUALIFY dense_rank() OVER (PARTITION BY c.model, c.dataset ORDER BY c.n_edits DESC, c.variant, c.seed, cell_id) = 1
ORDER BY c.model, c.dataset, s.site DESC, s.quantity, s.block
