"""Where edits and questions come from: published datasets, facts of one's own, made worlds, and prompts derived from them."""
