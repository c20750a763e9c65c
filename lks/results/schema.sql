-- The catalogue: a mirror of cells/, and the one definition of every metric.
-- Run only when this text differs from the one the catalogue was made with; the tables are then filled again from cells/.

CREATE OR REPLACE TABLE cells (
    cell_id VARCHAR, fingerprint VARCHAR,
    model VARCHAR, dataset VARCHAR, records INTEGER, split VARCHAR, measure VARCHAR,
    method VARCHAR, variant VARCHAR, n_edits INTEGER, seed INTEGER, draws INTEGER,
    parameters VARCHAR, model_revision VARCHAR, data_revision VARCHAR,
    status VARCHAR, reason VARCHAR,
    prepare_s DOUBLE, edit_s DOUBLE, ask_s DOUBLE, peak_bytes BIGINT, patch_bytes BIGINT,
    finished VARCHAR, outcome JSON
);

-- The tables of raw rows (answers, decisions, passages, ...) come before this text: `lks.results.stages` defines them.

-- Free answers, read once when a cell is taken in: the answer in the text, what it is compared by, whether it is right, and if not what is wrong.
CREATE OR REPLACE TABLE free_answers (
    cell_id VARCHAR, draw INTEGER, case_id VARCHAR, kind VARCHAR, probe_index INTEGER, context VARCHAR,
    said VARCHAR, spelt VARCHAR, is_right INTEGER, holds INTEGER, error VARCHAR
);
CREATE OR REPLACE VIEW free_answers_read AS
WITH heard AS (SELECT *, said(wild_text) AS said FROM answers WHERE wild_text IS NOT NULL),
heard_as AS (SELECT *, spelt(said) AS spelt FROM heard),
held_against AS (SELECT *, right_of(wild_text, spelt, answer, accepted) AS is_right FROM heard_as)
SELECT cell_id, draw, case_id, kind, probe_index, context, said, spelt, is_right, holds_of(said, is_right, answer, accepted) AS holds,
    CASE WHEN kind IN ('edit', 'paraphrase') THEN error_of(said, is_right, answer, accepted, rival) END AS error
FROM held_against;

CREATE OR REPLACE VIEW all_answers AS
SELECT 'final' AS moment, * FROM answers WHERE context = 'bare' UNION ALL SELECT 'immediate', * FROM immediate_answers;

-- Student's t at 97.5 %: closed forms for 1 and 2 degrees of freedom, then a series (Abramowitz and Stegun 26.7.5); as `lks.statistics.t_quantile`.
CREATE OR REPLACE MACRO t95(df) AS CASE
    WHEN df < 1 THEN NULL
    WHEN df = 1 THEN 12.706204736174696
    WHEN df = 2 THEN 4.302652729749463
    ELSE 1.959963984540054 + 2.372271230298562 / df + 2.8224986157396112 / df**2 + 2.555849679507722 / df**3 + 1.5895340533938225 / df**4
END;

-- 95 % interval of a mean p of scores in [0, 1] with its clustered error and number of clusters; as `lks.statistics.interval`.
CREATE OR REPLACE MACRO effective_size(p, se, g) AS CASE
    WHEN se <= 1e-12 OR least(p, 1 - p) <= 1e-12 THEN g::DOUBLE
    ELSE least(p * (1 - p) / se**2,
        (least(p, 1 - p)**2 / se**2 + 1) / (least(p, 1 - p)**2 / se**2 / (p * (1 - p) / se**2) + 1 / g))
END;
CREATE OR REPLACE MACRO wilson(p, pull, side) AS
    (p + pull / 2 + side * sqrt(pull * (p * (1 - p) + pull / 4))) / (1 + pull);
CREATE OR REPLACE MACRO interval_low(p, se, g) AS CASE
    WHEN p IS NULL OR (se IS NULL AND g > 1) THEN NULL
    WHEN g = 1 THEN 0
    ELSE greatest(0, least(p, wilson(p, t95(g - 1)**2 / effective_size(p, se, g), -1)))
END;
CREATE OR REPLACE MACRO interval_high(p, se, g) AS CASE
    WHEN p IS NULL OR (se IS NULL AND g > 1) THEN NULL
    WHEN g = 1 THEN 1
    ELSE least(1, greatest(p, wilson(p, t95(g - 1)**2 / effective_size(p, se, g), 1)))
END;

-- Fraction of the tokens of `wanted` that `given` has at the same position.
CREATE OR REPLACE MACRO agreement(wanted, given) AS
    list_avg(list_transform(range(1, len(wanted) + 1), lambda i: coalesce((wanted[i] = given[i])::INTEGER, 0)));

-- Whether two texts are the same letters.
CREATE OR REPLACE MACRO same_text(a, b) AS nfc_normalize(trim(a)) = nfc_normalize(trim(b)) AND trim(a) <> '';

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

-- One row per moment, probe and read-out family. `wanted` is what the answer is held against: the reference answer, or for what should
-- stay (locality, neighbours) what the unedited model said: its argmax under teacher forcing (tf), its own greedy tokens (ar), its free
-- answer (wild). `ar_same`: the generated tokens spell what is wanted, be they the same tokens or not.
CREATE OR REPLACE VIEW compared AS
SELECT moment, cell_id, draw, case_id, subject, kind, stratum, probe_index, answer_ids AS tf_wanted, tf_ids, answer_ids AS ar_wanted, ar_ids,
    ar_ids = answer_ids OR same_text(ar_text, answer) AS ar_same,
    (answer_logprob / len(answer_ids) > rival_logprob / nullif(rival_tokens, 0))::INTEGER::DOUBLE AS likelihood, kl
FROM all_answers WHERE kind NOT IN ('locality', 'neighbour')
UNION ALL
SELECT a.moment, a.cell_id, a.draw, a.case_id, a.subject, a.kind, a.stratum, a.probe_index, u.tf_ids, a.tf_ids, u.ar_ids, a.ar_ids,
    a.ar_ids = u.ar_ids OR same_text(a.ar_text, u.ar_text),
    (a.answer_logprob / len(a.answer_ids) > a.rival_logprob / nullif(a.rival_tokens, 0))::INTEGER::DOUBLE, a.kl
FROM all_answers a
LEFT JOIN unedited USING (cell_id)
LEFT JOIN answers u ON u.cell_id = unedited_id AND u.context = 'bare'
    AND (u.draw, u.case_id, u.kind, u.probe_index) = (a.draw, a.case_id, a.kind, a.probe_index)
WHERE a.kind IN ('locality', 'neighbour');

-- Free answers, right or as the unedited model's, in every context.
CREATE OR REPLACE VIEW wild_scores AS
SELECT f.cell_id, f.draw, f.case_id, f.kind, f.probe_index, f.context, f.said, f.error,
    CASE WHEN f.kind IN ('locality', 'neighbour') THEN (f.spelt = u.spelt)::INTEGER ELSE f.is_right END::DOUBLE AS wild,
    CASE WHEN f.kind NOT IN ('locality', 'neighbour') THEN f.holds::DOUBLE END AS wild_holds
FROM free_answers f
LEFT JOIN unedited USING (cell_id)
LEFT JOIN free_answers u ON u.cell_id = unedited_id
    AND (u.draw, u.case_id, u.kind, u.probe_index, u.context) = (f.draw, f.case_id, f.kind, f.probe_index, f.context);

-- Score of each probe under each read-out, 0 to 1; NULL where the unedited model was not asked.
CREATE OR REPLACE VIEW all_probe_scores AS
SELECT moment, cell_id, draw, case_id, subject, kind, stratum, probe_index,
    agreement(tf_wanted, tf_ids) AS tf_token,
    (tf_wanted = tf_ids)::INTEGER::DOUBLE AS tf_exact,
    CASE WHEN ar_same OR len(ar_wanted) = 0 THEN ar_same::INTEGER::DOUBLE ELSE agreement(ar_wanted, ar_ids) END AS ar_token,
    ar_same::INTEGER::DOUBLE AS ar_exact,
    likelihood, kl
FROM compared;

CREATE OR REPLACE VIEW probe_scores AS
SELECT p.* EXCLUDE (moment), w.wild, w.cell_id IS NOT NULL AS generated
FROM all_probe_scores p
LEFT JOIN wild_scores w ON w.context = 'bare' AND (w.cell_id, w.draw, w.case_id, w.kind, w.probe_index) = (p.cell_id, p.draw, p.case_id, p.kind, p.probe_index)
WHERE p.moment = 'final';

-- The same, one row per read-out.
CREATE OR REPLACE VIEW all_item_scores AS
SELECT moment, cell_id, draw, case_id, subject, kind, probe_index, readout, score,
    CASE kind WHEN 'edit' THEN 'reliability' WHEN 'paraphrase' THEN 'generality' ELSE kind END AS metric
FROM all_probe_scores UNPIVOT INCLUDE NULLS (score FOR readout IN (tf_token, tf_exact, ar_token, ar_exact))
WHERE kind <> 'neighbour';

-- Portability questions whose other facts the unedited model knows: it answers them with the edited fact in front.
CREATE OR REPLACE VIEW known_questions AS
SELECT r.cell_id, draw, case_id, probe_index
FROM unedited r JOIN free_answers g ON g.cell_id = r.unedited_id AND g.context = 'given' AND g.kind = 'portability' AND g.is_right = 1;

-- Final scores by metric. Read-outs that were not taken have no rows; a score that lacks the unedited model's answer is NULL.
-- "likelihood" (ROME's ES, PS, NS) is whether the answer is likelier than its rival, by mean log p per token.
CREATE OR REPLACE VIEW metric_scores AS
WITH scored AS (
    SELECT * FROM probe_scores UNPIVOT INCLUDE NULLS (score FOR readout IN (tf_token, tf_exact, ar_token, ar_exact, wild, likelihood))
),
taken AS (
    SELECT cell_id, readout, subject, draw, case_id, kind, stratum, probe_index, score FROM scored
    WHERE CASE readout WHEN 'wild' THEN generated WHEN 'likelihood' THEN score IS NOT NULL AND kind <> 'locality' ELSE true END
)
SELECT *, CASE kind WHEN 'edit' THEN 'reliability' WHEN 'paraphrase' THEN 'generality' WHEN 'neighbour' THEN stratum ELSE kind END AS metric
FROM taken WHERE kind <> 'portability'
UNION ALL BY NAME
SELECT t.*, 'portability' AS metric FROM taken t SEMI JOIN known_questions USING (cell_id, draw, case_id, probe_index) WHERE kind = 'portability'
UNION ALL BY NAME
SELECT *, 'portability_all' AS metric FROM taken WHERE kind = 'portability'
UNION ALL BY NAME
SELECT *, kind || '/' || stratum AS metric FROM taken WHERE kind = 'locality' AND stratum <> ''
UNION ALL BY NAME
SELECT t.*, kind || '/' || stratum AS metric FROM taken t SEMI JOIN known_questions USING (cell_id, draw, case_id, probe_index)
WHERE kind = 'portability' AND stratum <> '';

CREATE OR REPLACE VIEW item_scores AS
SELECT cell_id, readout, subject, score, metric FROM metric_scores;

-- Sums by subject, the cluster of the statistics; NULL unless every item has a score.
CREATE OR REPLACE VIEW subject_sums AS
SELECT cell_id, readout, metric, subject, CASE WHEN count(score) = count(*) THEN fsum(score) END AS total, count(*) AS n_items
FROM item_scores GROUP BY ALL;

-- Means over items; NULL unless every item has a score.
CREATE OR REPLACE VIEW means AS
SELECT cell_id, readout, metric, CASE WHEN count(total) = count(*) THEN fsum(total) / sum(n_items) END AS value,
    sum(n_items)::BIGINT AS n_items, count(*) AS n_subjects
FROM subject_sums GROUP BY ALL;

-- How far one subject's items pull a mean: sum_{i in c} (s_i - mean) / n.
CREATE OR REPLACE VIEW pulls AS
SELECT cell_id, readout, metric, subject, (s.total - s.n_items * m.value) / m.n_items AS pull, m.value, m.n_items, m.n_subjects
FROM subject_sums s JOIN means m USING (cell_id, readout, metric);

-- All metrics: value, standard error clustered by subject sqrt(sum_c pull_c^2), 95 % interval. One subject says nothing about its
-- spread: then the error is NULL and the interval is everything.
-- The error of edit performance counts what the three metrics of one subject have in common.
CREATE OR REPLACE VIEW metrics AS
WITH every_pull AS MATERIALIZED (FROM pulls),
single AS (
    SELECT cell_id, readout, metric, any_value(value) AS value, CASE WHEN count(*) > 1 THEN sqrt(fsum(pull * pull)) END AS standard_error,
        any_value(n_items) AS n_items, any_value(n_subjects) AS n_subjects
    FROM every_pull GROUP BY ALL
),
together AS (
    SELECT cell_id, readout, subject, fsum(pull) / 3 AS pull FROM every_pull
    WHERE metric IN ('reliability', 'generality', 'locality') GROUP BY ALL
),
all_three AS (
    SELECT cell_id, readout, favg(value) AS ep, CASE WHEN min(value) = 0 THEN 0 ELSE 3 / fsum(1 / value) END AS hm, sum(n_items) AS n_items
    FROM single WHERE metric IN ('reliability', 'generality', 'locality') GROUP BY ALL HAVING count(value) = 3
),
together_errors AS (
    SELECT cell_id, readout, CASE WHEN count(*) > 1 THEN sqrt(fsum(pull * pull)) END AS standard_error, count(*) AS n_subjects
    FROM together GROUP BY ALL
),
every_metric AS (
    SELECT cell_id, readout, metric, value, standard_error, n_items::BIGINT AS n_items, n_subjects FROM single
    UNION ALL
    SELECT cell_id, readout, 'edit_performance', ep, standard_error, n_items::BIGINT, n_subjects
    FROM all_three JOIN together_errors USING (cell_id, readout)
)
SELECT cell_id, readout, metric, value, standard_error,
    interval_low(value, standard_error, n_subjects) AS low, interval_high(value, standard_error, n_subjects) AS high, n_items, n_subjects
FROM every_metric
UNION ALL
SELECT cell_id, readout, 'harmonic_mean', hm, NULL, NULL, NULL, n_items::BIGINT, n_subjects
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
SELECT cell_id, readout, metric, immediate, final, lost, standard_error, t95(n_subjects - 1) * standard_error AS half_width, n_items, n_subjects
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
    UNION ALL
    SELECT cell_id, dataset, n_edits, concat_ws(' ', method, nullif(variant, '')) FROM cells WHERE measure = 'answers'
) USING (cell_id)
GROUP BY ALL;

-- How far the distributions of what should stay have moved, by stratum: mean KL to the unedited model over its own answer, nats.
CREATE OR REPLACE VIEW drift AS
WITH items AS (
    SELECT cell_id, subject, kl, CASE kind WHEN 'locality' THEN kind ELSE stratum END AS stratum
    FROM probe_scores WHERE kind IN ('locality', 'neighbour') AND kl IS NOT NULL
),
averages AS (SELECT cell_id, stratum, favg(kl) AS value, count(*) AS n_items, count(DISTINCT subject) AS n_subjects FROM items GROUP BY ALL),
pulled AS (
    SELECT cell_id, stratum, subject, fsum(kl - value) / any_value(n_items) AS pull
    FROM items JOIN averages USING (cell_id, stratum) GROUP BY ALL
)
SELECT cell_id, stratum, any_value(value) AS kl, CASE WHEN count(*) > 1 THEN sqrt(fsum(pull * pull)) END AS standard_error,
    any_value(n_items) AS n_items, any_value(n_subjects) AS n_subjects
FROM pulled JOIN averages USING (cell_id, stratum) GROUP BY ALL;

-- Free generation in every context: right, and with the right answer somewhere in it; and what is wrong otherwise, fractions of all answers.
CREATE OR REPLACE VIEW contexts AS
SELECT cell_id, context, CASE kind WHEN 'edit' THEN 'reliability' ELSE 'generality' END AS metric, count(*) AS n_items,
    favg(wild) AS wild, favg(wild_holds) AS wild_holds
FROM wild_scores WHERE kind IN ('edit', 'paraphrase') GROUP BY ALL;

CREATE OR REPLACE VIEW errors AS
WITH counted AS (
    SELECT cell_id, context, CASE kind WHEN 'edit' THEN 'reliability' ELSE 'generality' END AS metric, error, count(*) AS n
    FROM wild_scores WHERE kind IN ('edit', 'paraphrase') GROUP BY ALL
)
SELECT cell_id, context, metric, error, n, n / sum(n) OVER (PARTITION BY cell_id, context, metric) AS share
FROM counted QUALIFY error IS NOT NULL;

-- Collapse alarm: the median perplexity of plain texts, as a multiple of the unedited model's: above 1.2 suspect; above 10 or no number collapsed.
CREATE OR REPLACE VIEW collapse AS
WITH perplexities AS (SELECT cell_id, draw, passage, exp(-logprob / n_tokens) AS perplexity, isnan(logprob) AS is_nan FROM passages),
own AS (SELECT cell_id, median(perplexity) AS perplexity, bool_or(is_nan) AS is_nan FROM perplexities GROUP BY ALL),
paired AS (
    SELECT p.cell_id, median(p.perplexity) / median(u.perplexity) AS ratio
    FROM perplexities p JOIN unedited USING (cell_id) JOIN perplexities u ON u.cell_id = unedited_id AND (u.draw, u.passage) = (p.draw, p.passage)
    GROUP BY ALL
)
SELECT cell_id, perplexity, ratio,
    CASE WHEN is_nan OR ratio > 10 THEN 'collapsed' WHEN ratio > 1.2 THEN 'suspect' WHEN ratio IS NOT NULL THEN 'fine' END AS verdict
FROM own LEFT JOIN paired USING (cell_id);

-- Fluency: entropy in bits of a text's 2- and 3-grams of words and marks, weighted 2/3 and 4/3 and added (LKS, Eqs. 10 and 11). `fluency` is half of
-- that sum, as the authors of ROME and LKS compute and print it; the survey prints it times 100. Texts of fewer than three words have none.
CREATE OR REPLACE MACRO grams(terms, n) AS
    list_transform(range(1, len(terms) - n + 2), lambda i: array_to_string(terms[i : i + n - 1], ' '));
CREATE OR REPLACE VIEW fluency_of_texts AS
SELECT cell_id, draw, prompt_set, number, subject, prompt, text, tokens, len(terms) AS words,
    CASE WHEN len(terms) >= 3 THEN list_entropy(grams(terms, 2)) * 2 / 3 + list_entropy(grams(terms, 3)) * 4 / 3 END AS weighted_sum
FROM (SELECT *, regexp_extract_all(text, '[\pL\pM\pN]+|[^\s\pL\pM\pN]') AS terms FROM generations);
CREATE OR REPLACE VIEW fluency AS
SELECT cell_id, prompt_set, count(*) AS texts, count(weighted_sum) AS long_enough, favg(words) AS words, favg(weighted_sum) AS weighted_sum,
    favg(weighted_sum) / 2 AS fluency, 50 * favg(weighted_sum) AS survey,
    CASE WHEN count(weighted_sum) > 1 THEN stddev_samp(weighted_sum) / 2 / sqrt(count(weighted_sum)) END AS standard_error
FROM fluency_of_texts GROUP BY ALL;

-- Tests of abilities: the mean over documents, its error, what is left of the unedited model's, and what is left above chance (one of the choices).
CREATE OR REPLACE VIEW abilities AS
WITH scored AS (
    SELECT cell_id, task, metric, favg(score) AS value, count(*) AS documents, max(coalesce(json_array_length(nullif(requests, '')), 0)) AS choices,
        CASE WHEN count(*) > 1 THEN stddev_samp(score) / sqrt(count(*)) END AS standard_error
    FROM ability GROUP BY ALL
)
SELECT s.cell_id, s.task, s.metric, s.value, s.standard_error,
    CASE WHEN s.value BETWEEN 0 AND 1 THEN interval_low(s.value, s.standard_error, s.documents) END AS low,
    CASE WHEN s.value BETWEEN 0 AND 1 THEN interval_high(s.value, s.standard_error, s.documents) END AS high,
    s.documents, u.value AS unedited, s.value / nullif(u.value, 0) AS retention,
    (s.value - chance) / nullif(u.value - chance, 0) AS retention_above_chance
FROM (SELECT *, CASE WHEN choices > 1 THEN 1 / choices ELSE 0 END AS chance FROM scored) s
LEFT JOIN unedited USING (cell_id)
LEFT JOIN scored u ON u.cell_id = unedited_id AND (u.task, u.metric) = (s.task, s.metric);

-- What an LLM judge says beside the deterministic score of the same answers.
CREATE OR REPLACE VIEW judged AS
SELECT j.cell_id, j.judge, j.context, CASE j.kind WHEN 'edit' THEN 'reliability' WHEN 'paraphrase' THEN 'generality' ELSE j.kind END AS metric,
    favg(j.verdict::INTEGER) AS judged, favg(f.is_right) AS wild, count(*) AS n_items, count(j.verdict) AS n_judged
FROM judgements j JOIN free_answers f USING (cell_id, draw, case_id, kind, probe_index, context)
GROUP BY ALL;

-- Curves of studies over blocks: means over entities with 95 % intervals clustered by subject. What is a share or a probability of each entity has
-- an interval within 0 and 1; bits, cosines and differences of probabilities have Student's t.
CREATE OR REPLACE VIEW study_curves AS
WITH averages AS (
    SELECT cell_id, site, quantity, block, favg(value) AS value, count(*) AS n_items, count(DISTINCT subject) AS n_subjects
    FROM study_rows GROUP BY ALL
),
pulled AS (
    SELECT r.cell_id, r.site, r.quantity, r.block, r.subject, fsum(r.value - a.value) / any_value(a.n_items) AS pull
    FROM study_rows r JOIN averages a USING (cell_id, site, quantity, block) GROUP BY ALL
),
standard_errors AS (
    SELECT cell_id, site, quantity, block, CASE WHEN count(*) > 1 THEN sqrt(fsum(pull * pull)) END AS standard_error FROM pulled GROUP BY ALL
),
sided AS (
    SELECT *, quantity IN ('accuracy', 'control', 'rises', 'first', 'old_first', 'likelier', 'known', 'clean', 'corrupted') AS within,
        t95(n_subjects - 1) * standard_error AS half_width
    FROM averages JOIN standard_errors USING (cell_id, site, quantity, block)
)
SELECT cell_id, site, quantity, block, value,
    CASE WHEN within THEN interval_low(value, standard_error, n_subjects) ELSE value - half_width END AS low,
    CASE WHEN within THEN interval_high(value, standard_error, n_subjects) ELSE value + half_width END AS high,
    n_items, n_subjects
FROM sided;

-- Facts that the unedited model knows, by the probe that asks for them: its free answer to the bare prompt begins with the words of the old answer
-- (kind "edit"; there are no rows for edits without one) or of the true answer in one of its spellings (kind "locality").
CREATE OR REPLACE VIEW known_facts AS
SELECT r.cell_id, a.draw, a.case_id, a.subject, a.kind, a.probe_index,
    begins_with_one_of(f.said, CASE a.kind WHEN 'edit' THEN [a.rival] ELSE list_prepend(a.answer, coalesce(a.accepted, [])) END) AS known
FROM unedited r
JOIN answers a ON a.cell_id = r.unedited_id AND a.context = 'bare' AND (a.kind = 'locality' OR (a.kind = 'edit' AND a.rival <> ''))
JOIN free_answers f ON (f.cell_id, f.draw, f.case_id, f.kind, f.probe_index, f.context)
    = (a.cell_id, a.draw, a.case_id, a.kind, a.probe_index, a.context);

-- How many of the old answers of a cell's edits the unedited model gives.
CREATE OR REPLACE VIEW known_old_facts AS
SELECT cell_id, count(*) AS n_facts, count(*) FILTER (known) AS n_known, favg(known::INTEGER) AS share
FROM known_facts WHERE kind = 'edit' GROUP BY ALL;

-- Metrics over known facts alone, with the statistics of `metrics`: "locality_known" over the locality probes whose true answer the unedited model
-- gives; "reliability_known", "generality_known" and "portability_known" over the edits whose old answer it gives.
CREATE OR REPLACE VIEW known_metrics AS
WITH items AS (
    SELECT m.* EXCLUDE (metric), metric || '_known' AS metric
    FROM metric_scores m SEMI JOIN (FROM known_facts WHERE known AND kind = 'locality') USING (cell_id, draw, case_id, kind, probe_index)
    WHERE metric = 'locality'
    UNION ALL BY NAME
    SELECT m.* EXCLUDE (metric), metric || '_known' AS metric
    FROM metric_scores m SEMI JOIN (FROM known_facts WHERE known AND kind = 'edit') USING (cell_id, draw, case_id)
    WHERE metric IN ('reliability', 'generality', 'portability')
),
averages AS (
    SELECT cell_id, readout, metric, CASE WHEN count(score) = count(*) THEN favg(score) END AS value, count(*) AS n_items,
        count(DISTINCT subject) AS n_subjects
    FROM items GROUP BY ALL
),
pulled AS (
    SELECT cell_id, readout, metric, subject, fsum(score - value) / any_value(n_items) AS pull
    FROM items JOIN averages USING (cell_id, readout, metric) GROUP BY ALL
),
spread AS (
    SELECT cell_id, readout, metric, CASE WHEN count(*) > 1 THEN sqrt(fsum(pull * pull)) END AS standard_error FROM pulled GROUP BY ALL
)
SELECT cell_id, readout, metric, value, CASE WHEN value IS NOT NULL THEN standard_error END AS standard_error,
    interval_low(value, standard_error, n_subjects) AS low, interval_high(value, standard_error, n_subjects) AS high, n_items, n_subjects
FROM averages JOIN spread USING (cell_id, readout, metric);

-- How much longer a prefill takes with the edits in force, percent: the mean of the pairs' log ratios with its Student's t interval.
CREATE OR REPLACE VIEW overheads AS
WITH ratios AS (SELECT cell_id, batch, ln(patched_s / plain_s) AS ratio FROM timings WHERE plain_s > 0 AND patched_s > 0),
means AS (SELECT cell_id, batch, favg(ratio) AS ratio, t95(count(*) - 1) * stddev_samp(ratio) / sqrt(count(*)) AS half_width, count(*) AS pairs FROM ratios GROUP BY ALL)
SELECT cell_id, batch, 100 * (exp(ratio) - 1) AS value, 100 * (exp(ratio - half_width) - 1) AS low, 100 * (exp(ratio + half_width) - 1) AS high, pairs
FROM means WHERE pairs > 1;

-- Seconds and bytes of each cell, and the share of each kind of work.
CREATE OR REPLACE VIEW costs AS
SELECT cell_id, prepare_s, edit_s, ask_s, fsum(stage_s) FILTER (starts_with(stage, 'ability')) AS ability_s,
    fsum(stage_s) FILTER (NOT starts_with(stage, 'ability')) AS further_s, edit_s / (n_edits * draws) AS seconds_per_edit, peak_bytes, patch_bytes,
    any_value(o1.value) AS overhead_1, any_value(o1.low) AS overhead_1_low, any_value(o1.high) AS overhead_1_high,
    any_value(o32.value) AS overhead_32, any_value(o32.low) AS overhead_32_low, any_value(o32.high) AS overhead_32_high
FROM cells LEFT JOIN (SELECT * FROM overheads WHERE batch = 1) o1 USING (cell_id) LEFT JOIN (SELECT * FROM overheads WHERE batch = 32) o32 USING (cell_id)
LEFT JOIN (
    SELECT cell_id, unnest(json_keys(outcome, '$.costs.stage_s')) AS stage,
        (json_extract_string(outcome, '$.costs.stage_s."' || stage || '"'))::DOUBLE AS stage_s
    FROM cells
) USING (cell_id)
GROUP BY ALL;
