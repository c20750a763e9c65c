-- How many old answers of the shown cells' edits the unedited model gives, and metrics over known facts alone, in percent: one row for each metric,
-- one without a metric where none has a value.
WITH asked AS (SELECT * FROM known_metrics WHERE readout IN ('wild', 'tf_token'))
SELECT f.cell_id, f.n_facts, f.n_known, m.readout, replace(m.metric, '_known', '') AS metric,
    round(100 * m.value, 6) AS value, round(100 * m.low, 6) AS low, round(100 * m.high, 6) AS high, m.n_items
FROM known_old_facts f JOIN current_cells c USING (cell_id) LEFT JOIN asked m USING (cell_id)
WHERE c.status = 'ok' AND c.measure = 'answers'
ORDER BY f.cell_id, m.readout, m.metric
