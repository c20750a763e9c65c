-- Questions that both sides of each match were asked, of whom, and whether a raw answer differs.
SELECT match, subject, (tf_changed OR ar_changed OR wild_changed OR fired_changed)::INTEGER AS changed
FROM pairs ORDER BY match, subject
