"""Words of ids: a name and a value, or a digest of one with characters that an id cannot have."""

import hashlib
import re

_PLAIN = re.compile(r"[A-Za-z0-9+.]+")


def worded(name: str, text: str, key: str = "") -> str:
    """Return `{name}{text}`, or `{key}~` and the text's digest; the key is the name unless said."""
    return f"{name}{text}" if _PLAIN.fullmatch(text) else f"{key or name}~{digest(text)}"


def digest(text: str) -> str:
    """Return the first 8 digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def number(value: float) -> str:
    """Return a number's shortest text: `1.2`, `2`."""
    return repr(float(value)).removesuffix(".0")
