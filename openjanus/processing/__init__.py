"""From words and pictures to documents (floor 1)."""
