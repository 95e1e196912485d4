"""Who sends how many bytes to whom in an iteration, between ranks, nodes and rails (docs/traffic.md)."""
