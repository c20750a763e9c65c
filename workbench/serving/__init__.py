"""Server for patched models with the protocol of OpenAI's API."""
