"""Studies of a model without editing it: probe, swap, information gain and causal tracing."""
