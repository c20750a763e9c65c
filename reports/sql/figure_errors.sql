-- Free answers of the shown cells to bare prompts: percent that are right, and of each class of errors.
SELECT f.cell_id, CASE f.kind WHEN 'edit' THEN 'reliability' ELSE 'generality' END AS metric,
    CASE WHEN f.is_right = 1 THEN 'right' ELSE f.error END AS error,
    round(100 * count(*) / sum(count(*)) OVER (PARTITION BY f.cell_id, f.kind), 6) AS share,
    sum(count(*)) OVER (PARTITION BY f.cell_id, f.kind)::BIGINT AS n_items
FROM free_answers f JOIN current_cells c USING (cell_id)
WHERE c.status = 'ok' AND c.split = 'evaluation' AND f.context = 'bare' AND f.kind IN ('edit', 'paraphrase')
GROUP BY f.cell_id, f.kind, 3
ORDER BY f.cell_id, metric, error
