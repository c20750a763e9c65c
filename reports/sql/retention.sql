-- What every shown sequential cell has kept, in percent.
SELECT cell_id, readout, metric, round(100 * immediate, 6) AS immediate, round(100 * final, 6) AS final, round(100 * lost, 6) AS lost,
    round(100 * half_width, 6) AS half_width, n_items, n_subjects
FROM retention JOIN current_cells USING (cell_id)
WHERE status = 'ok'
ORDER BY cell_id, readout, metric
