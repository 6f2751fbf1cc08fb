"""The commands of kmsctl, a module for each noun."""
