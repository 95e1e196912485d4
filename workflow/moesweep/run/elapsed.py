"""How long something took, for people."""


def elapsed(seconds: float) -> str:
    """Return minutes and seconds, `1:05`, with hours where there are any, `2:00:00`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
