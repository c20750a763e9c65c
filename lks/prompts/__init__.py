"""Prompts that an LLM writes for facts, and facts that it extracts from texts."""
