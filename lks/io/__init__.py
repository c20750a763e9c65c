"""Files: whole or not at all, locked, cached, Parquet and JSON lines; guards on files of strangers; whether the hub can be asked."""
