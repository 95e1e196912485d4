"""The colours of text, parts and hatches, for figures and page alike; no plotting library needed."""

INK = "#1b1b1f"
"""Text and axes. The report turns it into the colour of its own text."""

NOTHING = "nothing"
"""Id of the words of a figure that has nothing to show: the report says them, and shows no figure."""

# After Okabe and Ito (2008), with dark and light next to each other in a stack, so that neighbours differ
# in grey as well.
PARTS: dict[str, str] = {
    "compute": "#3a5f94",
    "exposed tp": "#7fc4ee",
    "exposed etp": "#0072b2",
    "exposed ep": "#f0a202",
    "exposed dp, edp": "#c8500a",
    "exposed cp, pp, other": "#d795bb",
    "optimizer": "#5b5b63",
    "bubble": "#dcdce0",
}
"""Colour of each part of an iteration, in stacking order."""

MEMORY: dict[str, str] = {
    "weights": "#3a5f94",
    "gradients": "#7fc4ee",
    "optimizer": "#c8500a",
    "activations": "#d795bb",
    "workspace": "#6f747c",
}
PASSES = {"forward": "#3f74b0", "backward": "#f0a202", "closing": "#5b5b63"}
"""Passes of a pipeline, and what follows the last one."""
