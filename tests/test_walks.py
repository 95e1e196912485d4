"""The walks of CONTRIBUTING.md work, command by command, in a copy of a finished project."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from project import CHECKOUT, Project
from rerun_table import copied, finished_project

TEXT = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WALKS = {
    title: blocks
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    if (blocks := re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
}
PRINTED = {
    "Add a model": " legal layouts of ",
    "Add a GPU and a cluster of it": " on ours\n",
    "Add a table": "usd_per_billion_tokens",
    "Add a figure": "results/figures/prices.png",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose sweep has run, with the catalogue's models."""
    made = finished_project(tmp_path_factory.mktemp("finished"))
    for file in (CHECKOUT / "config").glob("*/*.yaml"):
        if file.parent.name in ("models", "gpus", "clusters"):
            shutil.copy(file, made.root / "config" / file.parent.name / file.name)
    return made


def test_every_walk_is_run() -> None:
    assert list(WALKS) == list(PRINTED)


@pytest.mark.slow
@pytest.mark.parametrize("title", PRINTED)
def test_a_walk_works(title: str, finished: Project, tmp_path: Path) -> None:
    project = copied(finished, tmp_path / "project")
    for block in WALKS[title]:
        done = project.call("bash", "-euo", "pipefail", "-c", block)
        assert done.returncode == 0, done.stderr
    assert PRINTED[title] in done.stdout


def test_workflows_call_make_and_check_out_alone() -> None:
    """No action of a third party sees the repository."""
    for file in sorted((CHECKOUT / ".github/workflows").glob("*.yml")):
        for job in yaml.safe_load(file.read_text())["jobs"].values():
            for step in job["steps"]:
                said = step.get("uses", step.get("run", ""))
                assert re.match(r"actions/checkout@|make \w+|sudo --preserve-env=PATH \.ci/run$", said), said


def test_hooks_are_what_make_check_runs() -> None:
    hooks = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    makefile = (CHECKOUT / "Makefile").read_text()
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe
    ran = [line.split(" ", 1)[1] for line in recipe.group(1).splitlines()]
    for hook in hooks[0]["hooks"]:
        assert any(line.startswith(hook["entry"].removeprefix(".venv/bin/")) for line in ran), hook["id"]
    assert len(hooks[0]["hooks"]) == len(ran)
