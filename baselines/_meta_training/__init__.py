"""Meta-training of editors: the training loop and a checkpoint to resume from."""
