"""The pages of a few and of a thousand workloads under axe-core, which is no dependency.

docs/decisions/accessibility.md says why, and how to run this.
"""

import os
from contextlib import chdir
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from answers import make_answers
from bench_cases import MANY
from browser import chromium
from moesweep.cli import main

AXE = "MOESWEEP_AXE"
RUN = """
const done = arguments[arguments.length - 1];
const said = (each) => [each.id, each.impact, each.nodes[0].html];
// What passes is not listed: of a thousand rows that takes longer than to look at them.
axe.run(document, {resultTypes: ["violations"]}).then((found) => done(found.violations.map(said)));
"""
SECONDS = 600
"""How long axe-core may take for a page on a machine with other work."""

pytestmark = [pytest.mark.slow, pytest.mark.endurance]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a small sweep."""
    results = make_answers(tmp_path_factory.mktemp("few"))
    for command in ("figures", "report"):
        assert main([command, "--results", str(results.root)]) == 0
    return results.report


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a sweep of 1,000 workloads, which keeps their sections as text."""
    study = tmp_path_factory.mktemp("thousand")
    (study / "config").mkdir()
    (study / "config/config.yaml").write_text("sweep: many.yaml\ncluster: dgx-a100-80gb-8xhdr200\n")
    (study / "many.yaml").write_text(MANY.format(count=1000, longest=1280))
    with chdir(study):
        for stage in ("enumerate", "validate", "trace", "cost", "traffic", "tables", "network", "figures"):
            assert main([stage]) == 0
        assert main(["report"]) == 0
    return study / "results/report.html"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("workloads", ["few", "thousand"])
def test_axe_finds_no_violation(
    request: pytest.FixtureRequest, tmp_path: Path, workloads: str, width: int, dark: bool
) -> None:
    if AXE not in os.environ:
        pytest.skip(f"needs axe-core: {AXE}=axe.min.js")
    report: Path = request.getfixturevalue(workloads)
    axe = Path(os.environ[AXE]).read_text(encoding="utf-8")
    with chromium(tmp_path / "profile", width, 900, dark) as page:
        page.set_script_timeout(SECONDS)
        page.get(report.as_uri())
        first = page.find_element(By.CSS_SELECTOR, "#overview tbody th a").text
        for place in ("", first):
            page.execute_script("location.hash = arguments[0]", place)
            # The page's own policy lets no other script in.
            page.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})
            assert page.execute_async_script(RUN) == []
        assert page.find_element(By.ID, first).is_displayed()
