-- A sample of raw answers of every shown cell: for each kind of probe, two that are right and two that are not, by what was
-- freely generated. Drawn by a hash, so that the same store gives the same sample.
WITH judged AS (
    SELECT a.*, s.tf_token, coalesce(s.wild, s.ar_exact) = 1 AS is_right, coalesce(u.wild_text, u.ar_text) AS unedited_text, coalesce(a.wild_text, a.ar_text) AS said
    FROM answers a
    JOIN current_cells c USING (cell_id)
    JOIN probe_scores s USING (cell_id, draw, case_id, kind, probe_index)
    LEFT JOIN unedited r USING (cell_id)
    LEFT JOIN answers u ON u.cell_id = r.unedited_id AND u.context = 'bare' AND (u.draw, u.case_id, u.kind, u.probe_index) = (a.draw, a.case_id, a.kind, a.probe_index)
    WHERE c.status = 'ok' AND a.context = 'bare'
)
SELECT cell_id, kind, draw, case_id, subject, prompt, answer, unedited_text, said, tf_token, is_right, fired
FROM judged
QUALIFY row_number() OVER (PARTITION BY cell_id, kind, is_right ORDER BY md5(case_id || '/' || draw || '/' || probe_index), case_id, draw) <= 2
ORDER BY cell_id, list_position(['edit', 'paraphrase', 'locality', 'portability', 'neighbour'], kind), is_right DESC NULLS LAST, md5(case_id), draw, probe_index
