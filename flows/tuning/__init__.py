"""Search for a method's parameters on development cases."""
