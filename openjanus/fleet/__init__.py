"""Janus for more than one machine: on vLLM as an out-of-tree plugin, or many embedded engines behind Ray Serve."""
