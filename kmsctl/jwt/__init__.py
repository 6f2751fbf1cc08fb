"""The keys of service account tokens as kmsctl shows them, finds them, and follows their rotation."""
