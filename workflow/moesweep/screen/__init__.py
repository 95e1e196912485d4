"""Layouts searched: every legal point of a space costed, the best of them chosen (docs/screen.md)."""
