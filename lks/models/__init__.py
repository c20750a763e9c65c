"""Language models: finding, fetching, loading, families, generation, prefill and partial passes."""
