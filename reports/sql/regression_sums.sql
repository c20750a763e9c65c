-- Both sides' plain texts and documents, summed over draws.
SELECT match, name, document, fsum(a.total) AS a, fsum(b.total) AS b, sum(a.size) AS a_size, sum(b.size) AS b_size
FROM documents_a a JOIN documents_b b USING (match, name, draw, document)
GROUP BY ALL ORDER BY ALL
