"""Results on disk: where each file lies, tables written whole, checksums, what results were made from."""
