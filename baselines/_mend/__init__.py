"""Parts of MEND: the network that edits gradients, passes that record them, and its training."""
