"""What a token can really do, tried out, and what follows from it: `kmsctl doctor`."""
