"""Fit the few constants that no source gives to measured training runs, and show what the model is worth."""
