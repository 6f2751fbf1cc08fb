"""Tell how kmsd is: health and logs. Knows nothing of keys' bytes and of gRPC."""
