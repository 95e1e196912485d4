"""The figures: one function each (`registry.py` lists them), drawn in one style."""
