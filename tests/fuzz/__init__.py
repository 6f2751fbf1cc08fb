"""Fuzzing of what strangers reach: `make fuzz`."""
