"""The stages of locate-then-edit methods: contexts, keys, values, covariances, and the changes of weights."""
