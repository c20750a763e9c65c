-- A sample of raw answers of every shown cell: for each kind of probe up to three that are right and as many that are not, by what was freely
-- generated, or by the first tokens where nothing was. Drawn by a hash, so that the same store gives the same sample. What should stay
-- (locality, neighbours) is held against the unedited model, all else against the reference answer.
WITH judged AS (
    SELECT a.cell_id, a.kind, a.stratum, a.draw, a.case_id, a.probe_index, a.subject, a.prompt, a.answer,
        u.ar_text AS unedited_ar, u.wild_text AS unedited_wild, a.ar_text, a.wild_text,
        round(s.tf_token * len(a.tf_ids))::INTEGER AS tf_right, len(a.tf_ids) AS tf_tokens,
        s.ar_exact = 1 AS ar_right, s.wild = 1 AS wild_right, coalesce(s.wild, s.ar_exact) = 1 AS is_right, f.error, a.fired
    FROM answers a
    JOIN current_cells c USING (cell_id)
    JOIN probe_scores s USING (cell_id, draw, case_id, kind, probe_index)
    LEFT JOIN free_answers f ON f.context = 'bare' AND (f.cell_id, f.draw, f.case_id, f.kind, f.probe_index) = (a.cell_id, a.draw, a.case_id, a.kind, a.probe_index)
    LEFT JOIN unedited r ON r.cell_id = a.cell_id
    LEFT JOIN answers u ON u.cell_id = r.unedited_id AND u.context = 'bare' AND (u.draw, u.case_id, u.kind, u.probe_index) = (a.draw, a.case_id, a.kind, a.probe_index)
    WHERE c.status = 'ok' AND c.measure = 'answers' AND a.context = 'bare'
)
SELECT cell_id, kind, stratum, draw, case_id, subject, prompt, answer, unedited_ar, unedited_wild, ar_text, wild_text, tf_right, tf_tokens,
    ar_right, wild_right, is_right, error, fired
FROM judged
QUALIFY row_number() OVER (PARTITION BY cell_id, kind, is_right ORDER BY md5(case_id || '/' || draw || '/' || probe_index), case_id, draw, probe_index) <= 3
ORDER BY cell_id, list_position(['edit', 'paraphrase', 'locality', 'neighbour', 'portability'], kind), is_right NULLS LAST, md5(case_id), draw, probe_index
