"""Files: atomic writes, checkpoints, caches, locks, Parquet, JSON lines, untrusted files, and hub access."""
