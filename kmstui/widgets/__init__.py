"""Pieces of the screen. Each shows what it is given and asks nobody."""
