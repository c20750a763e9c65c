-- Free generation of the shown cells by context, in percent: right, and with the right answer somewhere in the text; intervals clustered by subject.
WITH subjects AS (SELECT DISTINCT cell_id, draw, case_id, subject FROM answers WHERE context = 'bare'),
sums AS (
    SELECT w.cell_id, w.context, if(w.kind = 'edit', 'reliability', 'generality') AS metric, s.subject, sum(w.wild::BIGINT) AS total,
        sum(w.wild_holds::BIGINT) AS held, count(*) AS n
    FROM wild_scores w JOIN subjects s USING (cell_id, draw, case_id)
    WHERE w.kind IN ('edit', 'paraphrase') GROUP BY ALL
),
means AS (
    SELECT cell_id, context, metric, sum(total) / sum(n) AS mean, sum(held) / sum(n) AS holds, sum(n)::BIGINT AS n_items, count(*) AS n_subjects
    FROM sums GROUP BY ALL
),
rates AS (
    SELECT cell_id, context, metric, mean, holds, n_items, n_subjects,
        CASE WHEN count(*) > 1 THEN sqrt(fsum(((total - n * mean) / n_items) ** 2)) END AS standard_error
    FROM sums JOIN means USING (cell_id, context, metric) GROUP BY ALL
)
SELECT cell_id, context, metric, n_items, round(100 * mean, 6) AS value, round(100 * interval_low(mean, standard_error, n_subjects), 6) AS low,
    round(100 * interval_high(mean, standard_error, n_subjects), 6) AS high, round(100 * holds, 6) AS holds
FROM rates JOIN current_cells c USING (cell_id)
WHERE c.status = 'ok'
ORDER BY cell_id, context, list_position(['reliability', 'generality'], metric)
