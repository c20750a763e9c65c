-- What the matched cells of one catalogue were asked and what they said. Decisions are the answers of scope cells.
WITH said AS (
    SELECT 'final' AS moment, * FROM answers UNION ALL SELECT 'immediate', * FROM immediate_answers
)
SELECT match, moment, context, draw, case_id, kind, probe_index, prompt, answer, subject,
    tf_ids, ar_ids, ar_text, wild_text, fired, answer_logprob / len(answer_ids) AS logprob
FROM said JOIN matched USING (cell_id) WHERE side = getvariable('side')
UNION ALL BY NAME
SELECT match, 'decision' AS moment, 'bare' AS context, draw, case_id, probe_set AS kind, probe AS probe_index, '' AS prompt, '' AS answer,
    coalesce(nullif(case_id, ''), probe::VARCHAR) AS subject, array_to_string(subjects_found, ', ') AS wild_text, fired
FROM decisions JOIN matched USING (cell_id) JOIN cells USING (cell_id) WHERE side = getvariable('side') AND measure = 'scope'
