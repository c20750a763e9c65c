"""Evaluation of models: read-outs, drift, fluency, perplexity, abilities, scope, overhead, patches by row."""
