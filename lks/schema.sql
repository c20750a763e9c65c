-- The catalogue: a mirror of cells/, and the one definition of every metric.
-- Run only when this text differs from the one the catalogue was made with; the tables are then filled again from cells/.

CREATE OR REPLACE TABLE cells (
    cell_id VARCHAR, fingerprint VARCHAR,
    model VARCHAR, dataset VARCHAR, records INTEGER, split VARCHAR, measure VARCHAR,
    method VARCHAR, variant VARCHAR, n_edits INTEGER, seed INTEGER, draws INTEGER,
    parameters VARCHAR, model_revision VARCHAR, data_revision VARCHAR,
    status VARCHAR, reason VARCHAR,
    prepare_s DOUBLE, edit_s DOUBLE, ask_s DOUBLE, peak_bytes BIGINT, patch_bytes BIGINT,
    finished VARCHAR, outcome VARCHAR
);

-- What was said after all edits.
CREATE OR REPLACE TABLE answers (
    cell_id VARCHAR, draw INTEGER, case_id VARCHAR, subject VARCHAR, kind VARCHAR, probe_index INTEGER, prompt VARCHAR, answer VARCHAR,
    answer_ids INTEGER[], tf_ids INTEGER[], ar_ids INTEGER[], ar_text VARCHAR, answer_logprob DOUBLE, fired BOOLEAN
);

-- What was said right after each edit of a sequential method, to the questions of the case just edited.
CREATE OR REPLACE TABLE immediate_answers AS FROM answers WITH NO DATA;

-- What the edit scope indicators of scope cells decided; nothing was edited or asked for these.
CREATE OR REPLACE TABLE decisions (
    cell_id VARCHAR, draw INTEGER, probe_set VARCHAR, probe INTEGER, case_id VARCHAR,
    fired BOOLEAN, subjects_found VARCHAR[], subject_expected VARCHAR
);

CREATE OR REPLACE VIEW all_answers AS
SELECT 'final' AS moment, * FROM answers UNION ALL SELECT 'immediate', * FROM immediate_answers;

-- Fraction of the tokens of `wanted` that `given` has at the same position.
CREATE OR REPLACE MACRO agreement(wanted, given) AS
    list_avg(list_transform(range(1, len(wanted) + 1), lambda i: coalesce((wanted[i] = given[i])::INTEGER, 0)));

-- One cell for each line of a table. Where several fit (another number of draws, an older model, changed presets):
-- the newest model and data, then the most draws, then the newest.
CREATE OR REPLACE VIEW current_cells AS
WITH dated AS (
    SELECT *, max(finished) OVER (PARTITION BY model, dataset, model_revision, data_revision) AS newest FROM cells
)
SELECT * EXCLUDE (newest) FROM dated
QUALIFY row_number() OVER (
    PARTITION BY model, dataset, records, split, measure, method, variant, n_edits, seed ORDER BY newest DESC, draws DESC, finished DESC, cell_id
) = 1;

-- The unedited model's cell on the same cases in the same draws; the unedited model's is its own.
CREATE OR REPLACE VIEW unedited AS
SELECT c.cell_id, u.cell_id AS unedited_id
FROM cells c JOIN cells u ON u.method = 'none' AND u.status = 'ok'
    AND (u.model, u.dataset, u.records, u.split, u.n_edits, u.seed, u.draws, u.model_revision, u.data_revision)
      = (c.model, c.dataset, c.records, c.split, c.n_edits, c.seed, c.draws, c.model_revision, c.data_revision);

-- One row per moment, probe and read-out family. `wanted` is what the answer is held against: the reference answer, or for
-- locality what the unedited model said: its argmax under teacher forcing (tf) or its own greedy tokens (ar).
CREATE OR REPLACE VIEW compared AS
SELECT moment, cell_id, draw, case_id, subject, kind, probe_index, answer_ids AS tf_wanted, tf_ids, answer_ids AS ar_wanted, ar_ids
FROM all_answers WHERE kind <> 'locality'
UNION ALL
SELECT a.moment, a.cell_id, a.draw, a.case_id, a.subject, a.kind, a.probe_index, u.tf_ids, a.tf_ids, u.ar_ids, a.ar_ids
FROM all_answers a
LEFT JOIN unedited USING (cell_id)
LEFT JOIN answers u ON u.cell_id = unedited_id AND (u.draw, u.case_id, u.kind, u.probe_index) = (a.draw, a.case_id, a.kind, a.probe_index)
WHERE a.kind = 'locality';

-- Score of each probe under each read-out, 0 to 1; NULL where the unedited model was not asked.
CREATE OR REPLACE VIEW all_probe_scores AS
SELECT moment, cell_id, draw, case_id, subject, kind, probe_index,
    agreement(tf_wanted, tf_ids) AS tf_token,
    (tf_wanted = tf_ids)::INTEGER::DOUBLE AS tf_exact,
    CASE WHEN len(ar_wanted) = 0 THEN (len(ar_ids) = 0)::INTEGER::DOUBLE ELSE agreement(ar_wanted, ar_ids) END AS ar_token,
    (ar_wanted = ar_ids)::INTEGER::DOUBLE AS ar_exact
FROM compared;

CREATE OR REPLACE VIEW probe_scores AS
SELECT * EXCLUDE (moment) FROM all_probe_scores WHERE moment = 'final';

-- The same, one row per read-out.
CREATE OR REPLACE VIEW all_item_scores AS
SELECT moment, cell_id, draw, case_id, subject, kind, probe_index, readout, score,
    CASE kind WHEN 'edit' THEN 'reliability' WHEN 'paraphrase' THEN 'generality' ELSE kind END AS metric
FROM all_probe_scores UNPIVOT INCLUDE NULLS (score FOR readout IN (tf_token, tf_exact, ar_token, ar_exact));

CREATE OR REPLACE VIEW item_scores AS
SELECT cell_id, readout, subject, score, metric FROM all_item_scores WHERE moment = 'final';

-- Means over items; NULL unless every item has a score.
CREATE OR REPLACE VIEW means AS
SELECT cell_id, readout, metric, CASE WHEN count(score) = count(*) THEN favg(score) END AS value,
    count(*) AS n_items, count(DISTINCT subject) AS n_subjects
FROM item_scores GROUP BY ALL;

-- How far one subject's items pull a mean: sum_{i in c} (s_i - mean) / n.
CREATE OR REPLACE VIEW pulls AS
SELECT cell_id, readout, metric, subject, fsum(score - value) / any_value(n_items) AS pull
FROM item_scores JOIN means USING (cell_id, readout, metric) GROUP BY ALL;

-- All metrics: value, standard error clustered by subject sqrt(sum_c pull_c^2), half-width of the 95 % interval. One
-- subject says nothing about its spread: then the error is NULL.
-- The error of edit performance counts what the three metrics of one subject have in common.
CREATE OR REPLACE VIEW metrics AS
WITH parts AS (SELECT * FROM means WHERE metric IN ('reliability', 'generality', 'locality')),
together AS (
    SELECT cell_id, readout, subject, fsum(pull) / 3 AS pull FROM pulls
    WHERE metric IN ('reliability', 'generality', 'locality') GROUP BY ALL
),
all_three AS (
    SELECT cell_id, readout, favg(value) AS ep, CASE WHEN min(value) = 0 THEN 0 ELSE 3 / fsum(1 / value) END AS hm, sum(n_items) AS n_items
    FROM parts GROUP BY ALL HAVING count(value) = 3
),
errors AS (
    SELECT cell_id, readout, metric, CASE WHEN count(*) > 1 THEN sqrt(fsum(pull * pull)) END AS standard_error FROM pulls GROUP BY ALL
),
together_errors AS (
    SELECT cell_id, readout, CASE WHEN count(*) > 1 THEN sqrt(fsum(pull * pull)) END AS standard_error, count(*) AS n_subjects
    FROM together GROUP BY ALL
)
SELECT cell_id, readout, metric, value, standard_error, 1.96 * standard_error AS half_width, n_items::BIGINT AS n_items, n_subjects
FROM means JOIN errors USING (cell_id, readout, metric)
UNION ALL
SELECT cell_id, readout, 'edit_performance', ep, standard_error, 1.96 * standard_error, n_items::BIGINT, n_subjects
FROM all_three JOIN together_errors USING (cell_id, readout)
UNION ALL
SELECT cell_id, readout, 'harmonic_mean', hm, NULL, NULL, n_items::BIGINT, n_subjects
FROM all_three JOIN together_errors USING (cell_id, readout);

-- What later edits have undone: each probe right after its case's edit against the same probe after all edits of its draw.
-- `lost` is the mean of the differences (immediate - final); its standard error is clustered by subject as in `metrics`.
CREATE OR REPLACE VIEW retention AS
WITH items AS (
    SELECT i.cell_id, i.readout, i.metric, i.subject, i.score AS immediate, f.score AS final, i.score - f.score AS lost
    FROM all_item_scores i
    JOIN all_item_scores f USING (cell_id, draw, case_id, kind, probe_index, readout)
    WHERE i.moment = 'immediate' AND f.moment = 'final'
),
averages AS (
    SELECT cell_id, readout, metric, count(*) AS n_items, count(DISTINCT subject) AS n_subjects,
        CASE WHEN count(lost) = count(*) THEN favg(immediate) END AS immediate,
        CASE WHEN count(lost) = count(*) THEN favg(final) END AS final,
        CASE WHEN count(lost) = count(*) THEN favg(lost) END AS lost
    FROM items GROUP BY ALL
),
pulled AS (
    SELECT i.cell_id, i.readout, i.metric, i.subject, fsum(i.lost - a.lost) / any_value(a.n_items) AS pull
    FROM items i JOIN averages a USING (cell_id, readout, metric) GROUP BY ALL
),
errors AS (
    SELECT cell_id, readout, metric, CASE WHEN count(*) > 1 THEN sqrt(fsum(pull * pull)) END AS standard_error FROM pulled GROUP BY ALL
)
SELECT cell_id, readout, metric, immediate, final, lost, standard_error, 1.96 * standard_error AS half_width, n_items, n_subjects
FROM averages JOIN errors USING (cell_id, readout, metric);

-- How often a scope indicator fires on the prompts of a set, finds the subject that the prompt is about (NULL where it is about no
-- edited one), and finds another; fractions of the probes of all draws.
CREATE OR REPLACE VIEW scope_rates AS
SELECT cell_id, scope, dataset, n_edits, probe_set, count(*) AS probes, avg(fired::INTEGER) AS fired,
    avg(list_contains(subjects_found, subject_expected)::INTEGER) FILTER (subject_expected <> '') AS right_subject,
    avg((len(list_filter(subjects_found, lambda subject: subject <> subject_expected)) > 0)::INTEGER) AS wrong_subject
FROM decisions JOIN (
    SELECT cell_id, dataset, n_edits, concat_ws(' ',  -- "exact", "exact+gate", and what else is overridden
        (parameters ->> '$.scope') || if(parameters ->> '$.gate' = 'none', '', '+gate'),
        nullif(trim(regexp_replace(variant, '\b(scope|gate)=\S+', '', 'g')), '')) AS scope
    FROM cells WHERE measure = 'scope'
) USING (cell_id)
GROUP BY ALL;
