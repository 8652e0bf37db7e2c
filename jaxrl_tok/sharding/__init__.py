"""Mesh, rules and placement."""
