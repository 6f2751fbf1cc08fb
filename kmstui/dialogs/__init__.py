"""Forms, each for one action; they show the kmsctl command that does the same, and what came of it."""
