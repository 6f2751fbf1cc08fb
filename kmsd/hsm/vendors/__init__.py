"""What differs from vendor to vendor: quirks in one table, and what TPMs need."""
