-- How often the scope indicators of the shown cells fire, find the subject asked about and find another, in percent, with intervals clustered by
-- prompt: a case's prompts, or a prompt about no case, are asked again in every draw. Several seeds are pooled. Of a method that does not say
-- whose edits act, only how often it fires.
WITH named AS (SELECT cell_id, bool_or(subject_expected <> '') AS names FROM decisions GROUP BY cell_id),
items AS (
    SELECT c.dataset, c.model, c.records, c.measure, r.scope, c.n_edits, d.probe_set, if(d.case_id = '', d.probe::VARCHAR, d.case_id) AS prompt,
        unnest([
            {'what': 'fired', 'score': d.fired::INTEGER},
            {'what': 'right', 'score': if(d.subject_expected = '', NULL, list_contains(d.subjects_found, d.subject_expected)::INTEGER)},
            {'what': 'wrong', 'score': if(c.measure = 'answers' AND NOT n.names, NULL, len(list_filter(d.subjects_found, lambda subject: subject <> d.subject_expected)) > 0)::INTEGER}
        ], recursive := true)
    FROM decisions d JOIN current_cells c USING (cell_id) JOIN (SELECT DISTINCT cell_id, scope FROM scope_rates) r USING (cell_id) JOIN named n USING (cell_id)
    WHERE c.status = 'ok' AND c.split = 'evaluation'
),
prompts AS (SELECT * EXCLUDE (score), sum(score) AS total, count(score) AS n FROM items WHERE score IS NOT NULL GROUP BY ALL),
means AS (SELECT * EXCLUDE (prompt, total, n), sum(total) / sum(n) AS mean, sum(n) AS n_items, count(*) AS n_prompts FROM prompts GROUP BY ALL),
rates AS (
    SELECT dataset, model, records, measure, scope, n_edits, probe_set, what, mean, n_items, n_prompts,
        CASE WHEN count(*) > 1 THEN sqrt(fsum(((total - n * mean) / n_items) ** 2)) END AS standard_error
    FROM prompts JOIN means USING (dataset, model, records, measure, scope, n_edits, probe_set, what) GROUP BY ALL
)
SELECT dataset, model, records, measure, scope, n_edits, probe_set, what, n_items::BIGINT AS probes, round(100 * mean, 6) AS value,
    round(100 * interval_low(mean, standard_error, n_prompts), 6) AS low, round(100 * interval_high(mean, standard_error, n_prompts), 6) AS high
FROM rates
ORDER BY dataset, model, records, n_edits, coalesce(list_position(['official', 'exact', 'fuzzy', 'exact+gate'], scope), 9), scope, measure,
    list_position(['edit', 'paraphrase', 'locality', 'others'], probe_set) NULLS LAST, probe_set, what
