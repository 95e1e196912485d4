"""Why a number is what it is: a tree down to the catalogue, read from the cost's own expressions."""
