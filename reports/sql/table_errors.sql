-- What is wrong with free answers of the shown cells, percent of all answers of a metric.
SELECT cell_id, context, metric, error, n::BIGINT AS n, round(100 * share, 6) AS share
FROM errors JOIN current_cells c USING (cell_id)
WHERE c.status = 'ok'
ORDER BY cell_id, context, list_position(['reliability', 'generality'], metric), error
