"""What kmsd tells about itself: statistics, feeds, the audit."""
