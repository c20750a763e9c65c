"""Chat models on an OpenAI-compatible server: client, limits, kept replies, and the judge of free answers."""
