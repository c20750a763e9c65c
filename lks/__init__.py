"""Latent Knowledge Scalpel, the shared machinery of knowledge editors, and their evaluation."""
