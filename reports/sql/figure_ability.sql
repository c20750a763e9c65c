-- Tests of abilities of the shown cells, percent with 95 % interval: each test once, however many metrics it has, and their mean (task '').
WITH tests AS (
    SELECT cell_id, task, favg(value) AS value, favg(standard_error) AS standard_error, max(documents) AS documents
    FROM abilities GROUP BY ALL
),
averages AS (
    SELECT cell_id, '' AS task, favg(value) AS value, sqrt(fsum(standard_error**2)) / count(*) AS standard_error, sum(documents)::BIGINT AS documents
    FROM tests GROUP BY cell_id HAVING count(*) > 1
)
SELECT cell_id, task, round(100 * value, 6) AS value, round(100 * interval_low(value, standard_error, documents), 6) AS low,
    round(100 * interval_high(value, standard_error, documents), 6) AS high, documents
FROM (FROM tests UNION ALL FROM averages) JOIN current_cells c USING (cell_id)
WHERE c.status = 'ok' AND c.split = 'evaluation' AND value BETWEEN 0 AND 1
ORDER BY cell_id, task
