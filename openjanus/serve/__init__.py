"""A server that speaks the OpenAI API, and its page (floor 5)."""
