"""Sources of training examples, and pictures stored as ids (floor 2)."""
