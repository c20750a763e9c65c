"""Files: atomic writes, retries, checkpoints, caches, locks, Parquet, JSON lines, untrusted files, hub."""
