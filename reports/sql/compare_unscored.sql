-- Items that both sides answered, but that one of them cannot score: the unedited model's answer is lacking.
SELECT match, readout, metric, count(*) AS n_items, count(*) FILTER (a IS NULL) AS in_a, count(*) FILTER (b IS NULL) AS in_b
FROM items WHERE (a IS NULL) <> (b IS NULL)
GROUP BY ALL ORDER BY ALL
