-- Free texts before and after editing: of each cell one whose edit holds in free generation and one whose does not, drawn by a hash of the subject.
WITH pairs AS (
    SELECT g.cell_id, g.draw, g.subject, g.prompt, a.answer AS target, u.text AS before, g.text AS after, f.is_right = 1 AS holds
    FROM generations g JOIN current_cells c USING (cell_id) JOIN unedited r USING (cell_id)
    JOIN generations u ON u.cell_id = r.unedited_id AND (u.draw, u.prompt_set, u.number) = (g.draw, g.prompt_set, g.number)
    JOIN answers a ON a.cell_id = g.cell_id AND (a.draw, a.prompt, a.kind, a.context) = (g.draw, g.prompt, 'edit', 'bare')
    JOIN free_answers f ON f.cell_id = g.cell_id AND (f.draw, f.case_id, f.kind, f.probe_index, f.context) = (a.draw, a.case_id, a.kind, a.probe_index, a.context)
    WHERE g.prompt_set = 'edit' AND c.status = 'ok' AND c.method <> 'none'
)
SELECT cell_id, subject, prompt, target, before, after, holds FROM pairs
QUALIFY row_number() OVER (PARTITION BY cell_id, holds ORDER BY md5(subject), draw, prompt, target) = 1
ORDER BY cell_id, holds DESC, md5(subject), draw, prompt
