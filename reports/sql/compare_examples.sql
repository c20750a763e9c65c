-- Up to three questions of each match whose answers differ: of different kinds where there are, those that change a score first, drawn by a hash.
WITH told AS (
    SELECT *, CASE WHEN wild_changed THEN 'wild' WHEN ar_changed THEN 'ar_exact' WHEN tf_changed THEN 'tf_token' ELSE 'fires' END AS readout
    FROM pairs WHERE tf_changed OR ar_changed OR wild_changed OR fired_changed
),
judged AS (
    SELECT match, moment, context, draw, case_id, kind, probe_index, if(starts_with(readout, 'wild'), 'wild', readout) AS readout,
        any_value(b - a) AS gain
    FROM items GROUP BY ALL
),
ranked AS (
    SELECT t.*, gain, row_number() OVER (
        PARTITION BY match, kind
        ORDER BY coalesce(gain, 0) <> 0 DESC, readout = 'fires', md5(concat_ws('/', case_id, draw, probe_index, context)), moment
    ) AS rank
    FROM told t LEFT JOIN judged USING (match, moment, context, draw, case_id, kind, probe_index, readout)
)
SELECT match, kind, context, moment, readout, prompt, answer,
    CASE readout WHEN 'wild' THEN a_wild WHEN 'ar_exact' THEN a_ar WHEN 'tf_token' THEN a_tf::VARCHAR ELSE a_fired::VARCHAR END AS a_said,
    CASE readout WHEN 'wild' THEN b_wild WHEN 'ar_exact' THEN b_ar WHEN 'tf_token' THEN b_tf::VARCHAR ELSE b_fired::VARCHAR END AS b_said,
    CASE WHEN gain > 0 THEN 'better' WHEN gain < 0 THEN 'worse' ELSE '' END AS effect
FROM ranked
QUALIFY row_number() OVER (
    PARTITION BY match ORDER BY rank, coalesce(list_position(['edit', 'paraphrase', 'locality', 'portability', 'neighbour'], kind), 9), kind
) <= 3
ORDER BY match, rank, coalesce(list_position(['edit', 'paraphrase', 'locality', 'portability', 'neighbour'], kind), 9), kind
