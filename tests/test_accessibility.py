"""The page under axe-core, which is no dependency (docs/decisions/accessibility.md)."""

import os
from pathlib import Path

import pytest

from answers import make_answers
from browser import chromium
from moesweep.cli import main

AXE = "MOESWEEP_AXE"
RUN = """
const done = arguments[arguments.length - 1];
const said = (each) => [each.id, each.impact, each.nodes[0].html];
axe.run(document).then((found) => done(found.violations.map(said)));
"""


@pytest.mark.slow
@pytest.mark.endurance
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_no_violation(tmp_path: Path, width: int, dark: bool) -> None:
    if AXE not in os.environ:
        pytest.skip(f"needs axe-core: {AXE}=axe.min.js")
    results = make_answers(tmp_path / "results")
    for command in ("figures", "report"):
        assert main([command, "--results", str(results.root)]) == 0
    axe = Path(os.environ[AXE]).read_text(encoding="utf-8")
    with chromium(tmp_path / "profile", width, 900, dark) as page:
        page.get(results.report.as_uri())
        first = page.execute_script("return document.querySelector('.workload').id")
        for place in ("", first):
            page.execute_script("location.hash = arguments[0]", place)
            # The page's own policy lets no other script in.
            page.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})
            assert page.execute_async_script(RUN) == []
