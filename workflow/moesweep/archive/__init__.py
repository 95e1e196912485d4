"""The results as a data set: a manifest of every byte, an archive around it, and its verification."""
