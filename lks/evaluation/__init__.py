"""What a model is asked and how its answers are read: read-outs, drift, fluency, perplexity, abilities, scope, overhead; patches side by side."""
