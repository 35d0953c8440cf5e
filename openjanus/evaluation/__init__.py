"""Scorers and reports (floor 3)."""
