"""Checkpoint folders (floor 2)."""
