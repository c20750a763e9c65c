-- Questions that both sides were asked, word for word, with what each side said and which of its answers differ.
SELECT match, moment, context, draw, case_id, kind, probe_index, a.subject, prompt, answer,
    a.tf_ids IS DISTINCT FROM b.tf_ids AS tf_changed, a.ar_ids IS DISTINCT FROM b.ar_ids AS ar_changed,
    a.wild_text IS DISTINCT FROM b.wild_text AS wild_changed, a.fired IS DISTINCT FROM b.fired AS fired_changed,
    abs(b.logprob - a.logprob) AS logprob_moved,
    a.tf_ids AS a_tf, b.tf_ids AS b_tf, a.ar_text AS a_ar, b.ar_text AS b_ar, a.wild_text AS a_wild, b.wild_text AS b_wild,
    a.fired AS a_fired, b.fired AS b_fired
FROM answers_a a JOIN answers_b b USING (match, moment, context, draw, case_id, kind, probe_index, prompt, answer)
