-- Plain texts and documents of ability tests of the matched cells of one catalogue: nats over tokens, and percent right over 1 (several metrics of a
-- document count once). A likelihood that is no number counts as 100 nats a token, worse than any that is one.
SELECT match, 'perplexity' AS name, draw, passage::VARCHAR AS document, if(isfinite(logprob), -logprob, 100.0 * n_tokens) AS total, n_tokens AS size
FROM passages JOIN matched USING (cell_id) WHERE side = getvariable('side')
UNION ALL
SELECT match, 'ability', draw, task || '/' || doc_id, 100 * favg(score), 1
FROM ability JOIN matched USING (cell_id) WHERE side = getvariable('side') GROUP BY ALL
