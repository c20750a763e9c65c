"""Which edited subjects a text names, and where: exact, fuzzy and the authors' rules."""
