"""Benchmarks: speed of drawing and answering beside transformers, and a load test of the server (floor 6)."""
