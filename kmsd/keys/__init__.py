"""Which key does what, and how that changes: the inventory of all tokens, rotation, and the life of a key."""
