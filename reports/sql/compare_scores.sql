-- Score of every item of the matched cells of one catalogue, 0 to 1; NULL where the unedited model's answer is lacking.
-- Free answers in other contexts are read-outs of their own; of scope cells it is whether the indicator fires, by set of prompts.
WITH every_score AS (
    SELECT cell_id, 'final' AS moment, 'bare' AS context, readout, metric, draw, case_id, kind, probe_index, score FROM metric_scores
    UNION ALL
    SELECT cell_id, 'final', context, 'wild_' || context, CASE kind WHEN 'edit' THEN 'reliability' ELSE 'generality' END,
        draw, case_id, kind, probe_index, wild
    FROM wild_scores WHERE context <> 'bare' AND kind IN ('edit', 'paraphrase')
    UNION ALL
    SELECT cell_id, 'decision', 'bare', 'fires', probe_set, draw, case_id, probe_set, probe, fired::INTEGER
    FROM decisions JOIN cells USING (cell_id) WHERE measure = 'scope'
)
SELECT * EXCLUDE (cell_id, side) FROM every_score JOIN matched USING (cell_id) WHERE side = getvariable('side')
