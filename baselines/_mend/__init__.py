"""Parts of MEND: the editor network, the passes that record gradients, and the training."""
