"""README's Python, SQL and six questions run as they stand there; YAML that docs show is legal."""

import ast
import re
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
import yaml

from moesweep.cli import main
from moesweep.edge.schema import check

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SWEEP = """\
description: The workload that README names, and another ep.
options: {num_experts: 16, moe_router_topk: 2, seq_length: 4096, sequence_parallel: true}
grids:
  - {model: gpt_13B, world_size: 1024, tp: 16, pp: 2, ep: 16, global_batch_size: 2048}
"""


def blocks(text: str) -> list[str]:
    """Return the indented blocks of a page, without their indentation."""
    found = re.findall(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+", text)
    return [re.sub(r"^ {4}", "", each, flags=re.MULTILINE).strip("\n") for each in found]


def block(text: str, begins: str) -> str:
    (found,) = [each for each in blocks(text) if each.startswith(begins)]
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("study")
    (folder / "config").mkdir()
    (folder / "mine.yaml").write_text(SWEEP, encoding="utf-8")
    (folder / "config/config.yaml").write_text("sweep: mine.yaml\ncluster: dgx-a100-80gb-8xhdr200\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in ("enumerate", "trace", "cost"):
            assert main([stage]) == 0
        yield folder


@pytest.mark.slow
def test_the_readme_s_sql_and_python_run_as_pasted(study: Path) -> None:
    (row,) = duckdb.sql(block(README, "SELECT")).fetchall()
    assert row[0] == "gpt_13B-ws1024-tp16-pp2-ep16-gbs2048-mbs1-seq4096-moe"
    (line,) = re.findall(r"`(moesweep\.best\([^`]*\))`", README)
    found = shown(f"import moesweep\n{line}")
    assert found["fits"].all()
    assert (found["peak_memory_bytes"] < 40 * 2**30).all()
    found = shown(block(README, "import moesweep"))
    assert found["op"].cast(pl.String).str.starts_with("moe_").all()
    assert found.height


def shown(code: str) -> Any:
    """Run code as a prompt does, and return what its last expression is."""
    *before, last = ast.parse(code).body
    assert isinstance(last, ast.Expr)
    names: dict[str, Any] = {}
    exec(compile(ast.Module(before, []), "README.md", "exec"), names)
    return eval(compile(ast.Expression(last.value), "README.md", "eval"), names)


QUESTIONS = re.findall(r"^\| [^|]*\? \| `moesweep ([^`]*)` \|$", README, re.MULTILINE)


def test_there_are_six_questions_and_the_page_of_searches_asks_the_same() -> None:
    assert len(QUESTIONS) == 6
    page = (ROOT / "docs/screen.md").read_text(encoding="utf-8")
    assert [each for each in QUESTIONS if f"`moesweep {each}`" not in page] == []


@pytest.mark.slow
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_of_the_readme_has_an_answer(
    study: Path, question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(question.split()) == 0
    assert "iteration" in capsys.readouterr().out


YAML = {"docs/sweeps.md": ("claims:", "claims"), "docs/trace.md": ("routing:", "routing")}


@pytest.mark.parametrize("page", YAML)
def test_yaml_that_a_page_shows_is_legal(page: str) -> None:
    begins, key = YAML[page]
    text = block((ROOT / page).read_text(encoding="utf-8"), begins)
    # Alternatives stand below one another.
    parts = re.split(rf"^(?={begins})", text, flags=re.MULTILINE)[1:]
    assert parts
    for part in parts:
        assert check(yaml.safe_load(part)[key], "sweep", page, key=key) == []
