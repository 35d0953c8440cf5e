"""How fast models draw and answer on a machine, beside a peer (floor 5)."""
