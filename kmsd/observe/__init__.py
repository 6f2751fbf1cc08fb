"""What kmsd tells about itself: health and logs. Knows nothing of keys' bytes and of gRPC."""
