"""kmsctl: everything about a running kmsd that a script or an operator asks or does."""
