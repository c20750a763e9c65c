"""Scope indicators, which find the edited subjects that a text names: exact, fuzzy and the authors' rules."""
