"""Servers, workers and deployments that `lks up` starts, and the temporary server of a single command."""
