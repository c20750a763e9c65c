-- Scores of the same item on both sides.
SELECT match, moment, context, draw, case_id, kind, probe_index, readout, metric, p.subject, a.score AS a, b.score AS b,
    CASE WHEN readout = 'fires' THEN fired_changed WHEN starts_with(readout, 'tf') THEN tf_changed WHEN starts_with(readout, 'ar') THEN ar_changed
        WHEN starts_with(readout, 'wild') THEN wild_changed ELSE a.score IS DISTINCT FROM b.score END AS changed
FROM scores_a a
JOIN scores_b b USING (match, moment, context, draw, case_id, kind, probe_index, readout, metric)
JOIN pairs p USING (match, moment, context, draw, case_id, kind, probe_index)
