-- What is wrong with the free answers of every shown cell, percent of all answers to the bare prompts.
SELECT cell_id, metric, error, round(100 * share, 6) AS share
FROM errors JOIN current_cells USING (cell_id)
WHERE status = 'ok' AND context = 'bare'
ORDER BY cell_id, metric, share DESC, error
