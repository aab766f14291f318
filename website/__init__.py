"""The static site: its sources, its diagrams, and pictures of it."""
