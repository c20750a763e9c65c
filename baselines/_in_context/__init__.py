"""What methods share that put facts in front of a prompt: the patch, and what finds the facts."""
