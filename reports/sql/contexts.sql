-- Free generation by context; the gap is to teacher-forced tokens of the bare prompt.
SELECT c.model, c.dataset, c.method, c.variant, c.n_edits, c.seed, context, x.metric, x.n_items, round(x.wild, 6) AS wild, round(x.wild_holds, 6) AS wild_holds,
    round(m.value - x.wild, 6) AS gap, c.cell_id
FROM contexts x JOIN current_cells c USING (cell_id) LEFT JOIN metrics m ON m.cell_id = c.cell_id AND m.readout = 'tf_token' AND m.metric = x.metric
WHERE c.status = 'ok'
ORDER BY c.dataset, c.model, c.n_edits, c.method <> 'none', c.method, c.variant, c.seed, context, x.metric
