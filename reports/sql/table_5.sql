-- Entropy of free texts of the shown cells in bits, by set of prompts: half the weighted sum, as the paper prints it; the interval is over texts.
SELECT f.cell_id, f.prompt_set, f.texts, f.long_enough, round(f.words, 3) AS words, round(f.fluency, 6) AS value,
    round(f.fluency - t95(f.long_enough - 1) * f.standard_error, 6) AS low, round(f.fluency + t95(f.long_enough - 1) * f.standard_error, 6) AS high
FROM fluency f JOIN current_cells c USING (cell_id)
WHERE c.status = 'ok'
ORDER BY f.cell_id, f.prompt_set
