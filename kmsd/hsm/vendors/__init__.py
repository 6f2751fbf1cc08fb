"""The differences between vendors: quirks in one table, and what TPMs need."""
