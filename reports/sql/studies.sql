-- All curves of studies: means over entities at each block, with 95 % interval clustered by subject.
SELECT c.split, c.dataset, c.records, c.model, c.method AS study, c.variant, c.n_edits AS entities, c.seed, s.site, s.quantity, s.block,
    round(s.value, 6) AS value, round(s.low, 6) AS low, round(s.high, 6) AS high, s.n_items, s.n_subjects, cell_id
FROM study_curves s JOIN current_cells c USING (cell_id)
WHERE c.status = 'ok' AND c.measure = 'study'
ORDER BY c.split, c.dataset, c.records, c.model, c.method, c.variant, c.n_edits, c.seed, cell_id, s.site DESC, s.quantity, s.block
