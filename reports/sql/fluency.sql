-- Fluency of the shown cells: entropy in bits, in both scalings. `fluency` is half the weighted sum (the papers' print), `survey` a hundred times that.
SELECT c.model, c.dataset, c.method, c.variant, c.n_edits, c.seed, prompt_set, texts, long_enough, round(words, 3) AS words,
    round(weighted_sum, 6) AS weighted_sum, round(fluency, 6) AS fluency, round(f.standard_error, 6) AS standard_error, round(survey, 4) AS survey, cell_id
FROM fluency f JOIN current_cells c USING (cell_id)
WHERE c.status = 'ok'
ORDER BY c.dataset, c.model, c.n_edits, c.method <> 'none', c.method, c.variant, c.seed, prompt_set
