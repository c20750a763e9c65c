"""The stages of locate-then-edit methods: contexts, keys, values, covariances and weight updates."""
