-- Parameters that the shown cells of LKS were run with, as they were stored with each cell.
SELECT cell_id, block, lambda_edit, max_epochs, batch_size, lr, weight_decay, patience, hypernetwork, form, features, "key", positions, optimisation,
    locality_prompts, scope, gate, CASE WHEN end_of_answer THEN 'yes' ELSE 'no' END AS end_of_answer
FROM (
    SELECT cell_id, unnest(from_json(parameters, '{"block": "INTEGER", "lambda_edit": "DOUBLE", "max_epochs": "INTEGER", "batch_size": "INTEGER",
        "lr": "DOUBLE", "weight_decay": "DOUBLE", "patience": "INTEGER", "hypernetwork": "VARCHAR", "form": "VARCHAR", "features": "VARCHAR",
        "key": "VARCHAR", "positions": "VARCHAR", "optimisation": "VARCHAR", "locality_prompts": "INTEGER", "scope": "VARCHAR", "gate": "VARCHAR",
        "end_of_answer": "BOOLEAN"}'))
    FROM current_cells WHERE method = 'lks' AND measure = 'answers'
)
ORDER BY cell_id
