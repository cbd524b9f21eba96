"""What is measured: one file a scenario, each with `run`, which yields results as they come."""
