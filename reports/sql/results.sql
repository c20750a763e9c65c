-- Every metric of every shown cell, in percent.
SELECT cell_id, readout, metric, round(100 * value, 6) AS value, round(100 * half_width, 6) AS half_width, n_items, n_subjects
FROM metrics JOIN current_cells USING (cell_id)
WHERE status = 'ok'
ORDER BY cell_id, readout, metric
