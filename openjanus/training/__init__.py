"""One loop for every training (floor 4)."""
