"""The network: two eyes, one causal body, two heads (floor 1)."""
