-- Both sides' scores, summed over the items of each subject, the cluster of the statistics.
SELECT match, readout, metric, subject, fsum(a) AS a, fsum(b) AS b, count(*) AS n_items,
    count(*) FILTER (changed) AS changed, count(*) FILTER (b > a) AS better, count(*) FILTER (b < a) AS worse
FROM items WHERE a IS NOT NULL AND b IS NOT NULL
GROUP BY ALL ORDER BY ALL
