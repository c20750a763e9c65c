-- What the edits of the shown cells cost.
SELECT cell_id, seconds_per_edit AS seconds, costs.patch_bytes, costs.peak_bytes
FROM costs JOIN current_cells c USING (cell_id)
WHERE c.status = 'ok' AND c.measure = 'answers' AND c.method <> 'none'
ORDER BY cell_id
