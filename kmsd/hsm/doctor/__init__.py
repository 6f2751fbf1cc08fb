"""Try out what a token can really do, and tell what follows from it: `kmsctl doctor`."""
