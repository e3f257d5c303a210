"""To and from other data sets and tools."""
