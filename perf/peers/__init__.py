"""Who is measured: one file a contestant, each started for the same task on equal terms."""
