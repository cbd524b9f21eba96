"""The bench: Sluice against relays that parse nothing and proxies that people use."""
