"""Mutants are the code with one thing changed: `tests/mutation.py` tries them, which takes an hour."""

import ast

import pytest

import mutation

STEPS = mutation.PACKAGE / "shapes/steps.py"


@pytest.mark.parametrize("file", mutation.files(), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_every_mutant_is_code_that_differs(file: mutation.Path) -> None:
    sound = ast.unparse(ast.parse(file.read_text(encoding="utf-8")))
    found = list(mutation.mutants(file))
    for mutant in (found[0], found[len(found) // 2], found[-1]) if found else ():
        assert mutant.source != sound
        assert mutant.before != mutant.after
        compile(mutant.source, mutant.file, "exec")


def test_ways_to_change_a_formula(tmp_path: mutation.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutation, "PACKAGE", tmp_path)
    file = tmp_path / "formula.py"
    file.write_text("def f(a: int | None) -> int | None:\n    return 2 * a if a < 9 else -a\n")
    found = sorted(mutant.after for mutant in mutation.mutants(file))
    assert found == ["1", "2", "2 + a", "8", "a", "a <= 9"]
