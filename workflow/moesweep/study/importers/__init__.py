"""Files that people have, read as models and rows of a sweep: known by what they say, not by their names."""
