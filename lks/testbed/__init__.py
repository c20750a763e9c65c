"""Building and checking the small models that tests and benchmarks edit."""
