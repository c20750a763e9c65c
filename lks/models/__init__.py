"""Language models: finding, fetching and loading them, families, generation, prefill, and passes over some of the blocks."""
