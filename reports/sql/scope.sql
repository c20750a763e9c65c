-- How often the scope indicators of the shown cells fire and what they find, in percent; several seeds are pooled.
WITH pooled AS (
    SELECT dataset, model, records, measure, scope, n_edits, probe_set, sum(probes)::BIGINT AS probes,
        round(100 * sum(probes * fired) / sum(probes), 6) AS fired,
        round(100 * sum(probes * right_subject) / sum(probes), 6) AS right_subject,
        round(100 * sum(probes * wrong_subject) / sum(probes), 6) AS wrong_subject
    FROM scope_rates JOIN current_cells USING (cell_id, dataset, n_edits)
    WHERE status = 'ok' AND split = 'evaluation'
    GROUP BY ALL
)
FROM pooled
ORDER BY dataset, model, records, n_edits, coalesce(list_position(['official', 'exact', 'fuzzy', 'exact+gate'], scope), 9), scope,
    list_position(['edit', 'paraphrase', 'locality', 'others'], probe_set) NULLS LAST, probe_set
