"""Tables, as values and in every format."""
