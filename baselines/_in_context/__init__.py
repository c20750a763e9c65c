"""Shared parts of methods that put facts in front of a prompt: the patch and the retrievers."""
