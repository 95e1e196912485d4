"""The drawing of the rooms is of the code as it is."""

import pytest

import architecture


def test_the_drawing_is_not_stale() -> None:
    written = (architecture.ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert written == architecture.page(), "run: python tests/architecture.py > docs/architecture.md"


def test_arrows_that_follow_from_others_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architecture, "layers", lambda: [["a"], ["b"], ["c", "d"]])
    imported = {"a": {"b", "c", "d"}, "b": {"c"}, "c": set(), "d": set()}
    assert architecture.needed(imported) == [("a", "b"), ("a", "d"), ("b", "c")]
