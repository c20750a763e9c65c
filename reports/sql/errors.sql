-- Shares of the kinds of error among all free answers of a metric, and how often the right answer is somewhere in the text.
SELECT c.model, c.dataset, c.method, c.variant, c.n_edits, c.seed, context, metric, error, n, round(share, 6) AS share,
    round(x.wild, 6) AS wild, round(x.wild_holds, 6) AS wild_holds, cell_id
FROM errors JOIN current_cells c USING (cell_id) JOIN contexts x USING (cell_id, context, metric)
WHERE c.status = 'ok'
ORDER BY c.dataset, c.model, c.n_edits, c.method <> 'none', c.method, c.variant, c.seed, context, metric, error
