"""Tables as data, and their output formats."""
