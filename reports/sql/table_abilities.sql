-- Tests of abilities of the shown cells, in percent; the interval is over documents.
SELECT cell_id, task, metric, documents, round(100 * value, 6) AS value, round(100 * low, 6) AS low, round(100 * high, 6) AS high,
    round(100 * unedited, 6) AS unedited, round(100 * retention, 6) AS retention, round(100 * retention_above_chance, 6) AS above_chance
FROM abilities JOIN current_cells c USING (cell_id)
WHERE c.status = 'ok'
ORDER BY cell_id, task, metric
