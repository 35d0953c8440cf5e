"""A training starts from a whole Janus, or from parts that others have published (floor 3)."""
