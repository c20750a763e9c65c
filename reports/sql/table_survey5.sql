-- The survey's tests of general ability on the shown cells, fractions: all documents of a test's parts together; the interval is over documents.
-- One metric of each test: the share of right answers where there is one.
WITH tests AS (
    SELECT cell_id, CASE WHEN starts_with(task, 'mmlu') THEN 'mmlu' WHEN starts_with(task, 'agieval') THEN 'agieval' ELSE task END AS task, metric, score
    FROM ability
),
means AS (
    SELECT cell_id, task, metric, favg(score) AS mean, count(*) AS documents,
        CASE WHEN count(*) > 1 THEN stddev_samp(score) / sqrt(count(*)) END AS standard_error
    FROM tests WHERE task IN ('commonsense_qa', 'piqa', 'triviaqa', 'xsum', 'mmlu', 'agieval')
    GROUP BY ALL
)
SELECT cell_id, task, metric, documents, round(100 * mean, 6) AS value,
    CASE WHEN mean BETWEEN 0 AND 1 THEN round(100 * interval_low(mean, standard_error, documents), 6) END AS low,
    CASE WHEN mean BETWEEN 0 AND 1 THEN round(100 * interval_high(mean, standard_error, documents), 6) END AS high
FROM means JOIN current_cells c USING (cell_id)
WHERE c.status = 'ok'
QUALIFY row_number() OVER (PARTITION BY cell_id, task ORDER BY list_position(['acc', 'exact_match'], split_part(metric, ',', 1)) NULLS LAST, metric) = 1
ORDER BY cell_id, task
