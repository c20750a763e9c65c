-- Time and memory of the shown cells. `minutes` are for all T edits of one draw.
SELECT s.cell_id, s.edit_s / c.draws / 60 AS minutes, s.seconds_per_edit, s.prepare_s, s.ask_s, s.ability_s, s.peak_bytes, s.patch_bytes,
    s.overhead_1, s.overhead_1_low, s.overhead_1_high, s.overhead_32, s.overhead_32_low, s.overhead_32_high
FROM costs s JOIN current_cells c USING (cell_id)
WHERE c.status = 'ok' AND c.measure = 'answers'
ORDER BY s.cell_id
