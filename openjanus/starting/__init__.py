"""What a training starts from: a whole Janus, or parts that others have published (floor 3)."""
