-- Quantities of the matched cells of one catalogue that are not tested; NULL where not measured.
WITH gates AS (
    SELECT cell_id, 100 * avg(fired::INTEGER) FILTER (probe_set IN ('edit', 'paraphrase')) AS fires_in_scope,
        100 * avg(fired::INTEGER) FILTER (probe_set NOT IN ('edit', 'paraphrase', 'typo', 'case', 'alias', 'locality')) AS fires_outside
    FROM decisions GROUP BY ALL
),
tasks AS (SELECT cell_id, task, favg(value) AS value FROM abilities GROUP BY ALL),  -- every task counts once, however many metrics it has
tests AS (SELECT cell_id, 100 * favg(value) AS ability FROM tasks GROUP BY ALL),
texts AS (PIVOT fluency ON prompt_set IN ('edit', 'plain') USING first(fluency) GROUP BY cell_id),
beside AS (
    SELECT m.match, p.perplexity, texts.edit AS fluency_edit, texts.plain AS fluency_plain, tests.ability,
        gates.fires_in_scope, gates.fires_outside, costs.seconds_per_edit, costs.prepare_s, costs.peak_bytes::DOUBLE AS peak_bytes
    FROM matched m JOIN cells c USING (cell_id) LEFT JOIN collapse p USING (cell_id) LEFT JOIN texts USING (cell_id) LEFT JOIN tests USING (cell_id)
    LEFT JOIN gates USING (cell_id) LEFT JOIN costs USING (cell_id)
    WHERE m.side = getvariable('side') AND c.status = 'ok'
)
SELECT match, name, value FROM (UNPIVOT beside ON COLUMNS(* EXCLUDE (match)) INTO NAME name VALUE value) WHERE isfinite(value)
