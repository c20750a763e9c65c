-- Questions of each match: asked of both sides, of one alone, and of the former those whose raw answers differ.
WITH in_both AS (
    SELECT match, count(*) AS shared, count(*) FILTER (tf_changed OR ar_changed OR wild_changed OR fired_changed) AS changed,
        count(*) FILTER (tf_changed) AS tf, count(*) FILTER (ar_changed) AS ar, count(*) FILTER (wild_changed) AS wild,
        count(*) FILTER (fired_changed) AS fired, coalesce(max(logprob_moved) FILTER (isfinite(logprob_moved)), 0) AS logprob_moved
    FROM pairs GROUP BY match
),
all_a AS (SELECT match, count(*) AS n FROM answers_a GROUP BY match),
all_b AS (SELECT match, count(*) AS n FROM answers_b GROUP BY match)
SELECT match, coalesce(shared, 0) AS shared, coalesce(a.n, 0) - coalesce(shared, 0) AS only_a, coalesce(b.n, 0) - coalesce(shared, 0) AS only_b,
    coalesce(changed, 0) AS changed, coalesce(tf, 0) AS tf, coalesce(ar, 0) AS ar, coalesce(wild, 0) AS wild, coalesce(fired, 0) AS fired,
    coalesce(logprob_moved, 0) AS logprob_moved
FROM all_a a FULL JOIN all_b b USING (match) LEFT JOIN in_both USING (match)
ORDER BY match
