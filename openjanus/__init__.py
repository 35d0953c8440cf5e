"""openjanus: an open, complete implementation of Janus (arXiv 2410.13848)."""

__version__ = "0.1.0"
