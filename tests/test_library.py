"""`import moesweep`: the functions, the page that documents them and the notebook, run as a user would."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from moesweep.cli import main
from project import CHECKOUT

ROOM = """
import moesweep.screen.run
import moesweep
assert not callable(moesweep.screen)
assert callable(moesweep.best) and callable(moesweep.screen)
from moesweep.screen import best
assert best.__name__ == "moesweep.screen.best"
"""


def run(code: str, folder: Path) -> str:
    """Run a program in a folder, in a process of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (CHECKOUT / page).read_text(), re.MULTILINE | re.DOTALL)


def test_functions_stand_in_place_of_the_rooms_of_their_name(tmp_path: Path) -> None:
    run(ROOM, tmp_path)


def test_the_page_runs_as_pasted_in_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text("sweep: mine.yaml\ncluster: a100-80gb-pcie\n")
    rows = "rows: [{model: gpt_7B, world_size: 64, tp: 4, pp: 2, ep: 2, global_batch_size: 128}]\n"
    options = "options: {num_experts: 4, moe_router_topk: 2, seq_length: 128, sequence_parallel: true}\n"
    (tmp_path / "mine.yaml").write_text(f"description: One workload.\n{options}{rows}")
    monkeypatch.chdir(tmp_path)
    for stage in ("enumerate", "trace", "cost"):
        assert main([stage]) == 0
    said = run("\n".join(blocks("docs/python.md")), tmp_path)
    assert "pipeline_seconds" in said
    assert "shape: (3, 6)" in said


def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = json.loads((CHECKOUT / "docs/first_study.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    said = run("\n".join(cells), tmp_path)
    assert "moe_router_topk" in said


FRAMES = """
import moesweep, polars as pl
runs = pl.DataFrame({"model": ["gpt_7B", "gpt_13B"], "world_size": 64, "tp": [4, 8], "seq_length": 2048,
                     "global_batch_size": 128, "iteration_seconds": [1.5, 2.5], "note": ["a", None]})
found = moesweep.predict(runs)
assert found["tp"].to_list() == [4, 8]
assert found["measured_iteration_seconds"].to_list() == [1.5, 2.5]
low, high = found["iteration_seconds_low"], found["iteration_seconds_high"]
assert found["iteration_seconds"].is_between(low, high).all()
runs.write_csv("runs.csv")
assert moesweep.predict("runs.csv")["iteration_seconds"].equals(found["iteration_seconds"])
best = moesweep.best("gpt_7B", 64, memory="40GiB", top=4, num_experts=16)
assert best["iteration_seconds"].is_sorted() and best["fits"].all()
assert (best["peak_memory_bytes"] < 40 * 2**30).all() and (best["world_size"] == 64).all()
for wrong in (lambda: moesweep.predict(runs.drop("seq_length")), lambda: moesweep.best("gpt_7", 64),
              lambda: moesweep.read("cost"), lambda: moesweep.scan("op"), lambda: moesweep.scan(),
              lambda: moesweep.load_cluster("dgx")):
    try:
        wrong()
    except moesweep.BadInput as error:
        print(*(problem.line() for problem in error.problems))
    else:
        raise AssertionError
"""


def test_frames_in_and_out_and_every_mistake(tmp_path: Path) -> None:
    said = run(FRAMES, tmp_path).splitlines()
    assert "missing_column: no column seq_length" in said[0]
    assert "did you mean gpt_7B" in said[1]
    assert "did you mean costs" in said[2]
    assert "did you mean ops" in said[3]
    assert said[4].startswith("results/traces/ops: missing_file")
    assert "dgx-a100-80gb-8xhdr200" in said[5]


def test_every_function_is_on_the_page_and_documented() -> None:
    from moesweep import library

    page = (CHECKOUT / "docs/python.md").read_text()
    for name in library.__all__:
        assert getattr(library, name).__doc__
        if name[0].islower():
            assert f"`{name}(" in page


PAGES = ("README.md", *sorted(str(page.relative_to(CHECKOUT)) for page in (CHECKOUT / "docs").glob("*.md")))
COMMAND = re.compile(r"(?:^ {4}|^|`|&& )moesweep ([a-z]+)([^`|\n]*)", re.MULTILINE)


def test_pages_name_commands_and_options_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    known: dict[str, str] = {}
    found = 0
    for page in PAGES:
        for command, rest in COMMAND.findall((CHECKOUT / page).read_text(encoding="utf-8")):
            if command not in known:
                with pytest.raises(SystemExit) as ended:
                    main([command, "--help"])
                assert ended.value.code == 0, f"{page}: moesweep {command}"
                known[command] = capsys.readouterr().out
            options = re.findall(r"(?<![\w-])--[a-z][a-z-]+", rest.partition(" -- ")[0].partition("#")[0])
            assert [each for each in options if each not in known[command]] == [], f"{page}: {command}"
            found += 1
    assert found > 50


@pytest.mark.parametrize("stub", ["__init__.pyi"])
def test_the_stub_names_what_there_is(stub: str) -> None:
    from moesweep import library

    text = (CHECKOUT / "workflow/moesweep" / stub).read_text()
    assert re.findall(r"import (\w+) as \1$", text, re.MULTILINE) == library.__all__
