"""The built-in emoji world: artwork, scenes, captions and questions, splits, and the scorer of drawings (floor 4)."""
