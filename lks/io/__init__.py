"""Files: atomic writes, locks, caches, Parquet, JSON lines, guards on untrusted files, and hub access."""
