"""What is stored: cells and their outcomes, rows and shards of raw answers, and the catalogue with the metrics in SQL."""
