-- Every metric of every shown cell, in percent.
SELECT cell_id, readout, metric, round(100 * value, 6) AS value, round(100 * low, 6) AS low, round(100 * high, 6) AS high, n_items, n_subjects
FROM metrics JOIN current_cells USING (cell_id)
WHERE status = 'ok'
ORDER BY cell_id, readout, metric
