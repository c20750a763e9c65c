-- Everything measured on the shown cells, one row each: percent unless the name says otherwise. AR is exact.
WITH scores AS (
    PIVOT (SELECT cell_id, readout || ' ' || metric AS name, 100 * value AS value FROM metrics)
    ON name IN (
        'tf_token reliability', 'tf_token generality', 'tf_token locality', 'tf_token edit_performance',
        'ar_exact reliability', 'ar_exact generality', 'ar_exact locality', 'ar_exact edit_performance',
        'wild reliability', 'wild generality', 'wild locality', 'likelihood reliability', 'likelihood generality', 'likelihood same_relation',
        'ar_exact same_relation', 'ar_exact near_name', 'ar_exact far', 'wild portability', 'tf_token portability'
    )
    USING first(value) GROUP BY cell_id
),
moved AS (PIVOT drift ON stratum IN ('locality', 'same_relation', 'near_name', 'far') USING first(kl) GROUP BY cell_id),
texts AS (PIVOT fluency ON prompt_set IN ('edit', 'plain') USING first(fluency) AS fluency, first(words) AS words GROUP BY cell_id),
gates AS (
    SELECT cell_id, 100 * avg(fired::INTEGER) FILTER (probe_set IN ('edit', 'paraphrase')) AS fires_in_scope,
        100 * avg(fired::INTEGER) FILTER (probe_set NOT IN ('edit', 'paraphrase', 'typo', 'case', 'alias', 'locality')) AS fires_outside
    FROM decisions GROUP BY ALL
),
tests AS (
    SELECT cell_id, 100 * favg(value) AS ability, 100 * favg(retention) AS ability_kept, 100 * favg(retention_above_chance) AS ability_kept_above_chance
    FROM (
        SELECT cell_id, task, favg(value) AS value, favg(retention) AS retention, favg(retention_above_chance) AS retention_above_chance
        FROM abilities GROUP BY ALL  -- every task counts once, however many metrics it has
    )
    GROUP BY ALL
)
SELECT c.model, c.dataset, c.records, c.split, c.method, c.variant, contains(c.parameters, '"end_of_answer": true') AS end_of_answer, c.n_edits, c.seed,
    round("tf_token reliability", 4) AS tf_rel, round("tf_token generality", 4) AS tf_gen, round("tf_token locality", 4) AS tf_loc,
    round("tf_token edit_performance", 4) AS tf_ep,
    round("ar_exact reliability", 4) AS ar_rel, round("ar_exact generality", 4) AS ar_gen, round("ar_exact locality", 4) AS ar_loc,
    round("ar_exact edit_performance", 4) AS ar_ep,
    round("wild reliability", 4) AS wild_rel, round("wild generality", 4) AS wild_gen, round("wild locality", 4) AS wild_loc,
    round("tf_token reliability" - "wild reliability", 4) AS gap,
    round("likelihood reliability", 4) AS es, round("likelihood generality", 4) AS ps, round("likelihood same_relation", 4) AS ns,
    round("ar_exact same_relation", 4) AS same_relation, round("ar_exact near_name", 4) AS near_name, round("ar_exact far", 4) AS far,
    round(m.locality, 6) AS kl_locality_nats, round(m.same_relation, 6) AS kl_same_relation_nats, round(m.near_name, 6) AS kl_near_name_nats,
    round(m.far, 6) AS kl_far_nats,
    round("wild portability", 4) AS portability_wild, round("tf_token portability", 4) AS portability_tf,
    o.n_facts AS old_answers, o.n_known AS old_answers_known,
    round(p.perplexity, 4) AS perplexity, round(p.ratio, 4) AS perplexity_ratio, p.verdict AS collapse,
    round(t.edit_fluency, 4) AS fluency_edit, round(t.edit_words, 2) AS words_edit, round(t.plain_fluency, 4) AS fluency_plain,
    round(t.plain_words, 2) AS words_plain,
    round(tests.ability, 4) AS ability, round(tests.ability_kept, 4) AS ability_kept,
    round(tests.ability_kept_above_chance, 4) AS ability_kept_above_chance,
    round(fires_in_scope, 4) AS fires_in_scope, round(fires_outside, 4) AS fires_outside,
    costs.seconds_per_edit, costs.prepare_s, costs.edit_s, costs.ask_s, costs.ability_s, costs.further_s, costs.peak_bytes, costs.patch_bytes,
    round(overhead_1, 2) AS overhead_1_percent, round(overhead_1_low, 2) AS overhead_1_low, round(overhead_1_high, 2) AS overhead_1_high,
    round(overhead_32, 2) AS overhead_32_percent, round(overhead_32_low, 2) AS overhead_32_low, round(overhead_32_high, 2) AS overhead_32_high,
    array_to_string(list_transform(json_keys(c.outcome, '$.failed'),
        lambda stage: stage || ': ' || json_extract_string(c.outcome, '$.failed."' || stage || '"')), '; ') AS failed,
    c.cell_id
FROM current_cells c
LEFT JOIN scores USING (cell_id) LEFT JOIN moved m USING (cell_id) LEFT JOIN collapse p USING (cell_id) LEFT JOIN texts t USING (cell_id)
LEFT JOIN gates USING (cell_id) LEFT JOIN tests USING (cell_id) LEFT JOIN costs USING (cell_id)
LEFT JOIN known_old_facts o USING (cell_id)
WHERE c.status = 'ok' AND c.measure = 'answers'
ORDER BY c.split <> 'evaluation', c.dataset, c.records, c.model, c.n_edits, c.method <> 'none', c.method, c.variant, c.seed
