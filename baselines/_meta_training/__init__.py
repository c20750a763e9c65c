"""Training of what an editor learns before it edits: the loop, and a state on disk to go on from."""
