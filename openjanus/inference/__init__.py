"""Drawing and answering: one decode loop (floor 3)."""
