"""The server of patched models with the protocol of OpenAI's API."""
