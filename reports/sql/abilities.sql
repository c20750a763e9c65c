-- Tests of abilities of the shown cells, fractions; the interval is over documents.
SELECT c.model, c.dataset, c.method, c.variant, c.n_edits, c.seed, task, metric, round(value, 6) AS value, round(low, 6) AS low, round(high, 6) AS high, documents,
    round(unedited, 6) AS unedited, round(retention, 6) AS retention, round(retention_above_chance, 6) AS retention_above_chance, cell_id
FROM abilities JOIN current_cells c USING (cell_id)
WHERE c.status = 'ok'
ORDER BY c.dataset, c.model, c.n_edits, c.method <> 'none', c.method, c.variant, c.seed, task, metric
