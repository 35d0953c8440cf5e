"""Sources of examples and the built-in emoji world (floor 2)."""
