"""The page of a sweep of many workloads: their sections are text until a link asks for one."""

import re
from pathlib import Path

import pytest
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By

from answers import make_answers
from browser import chromium
from moesweep.cli import main
from moesweep.report.evidence import Evidence
from moesweep.store.layout import Results

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Return results with a page for which 3 workloads are many."""
    results = make_answers(tmp_path_factory.mktemp("results"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moesweep.report.page.MOST_DRAWN", 3)
        for command in ("figures", "report"):
            assert main([command, "--results", str(results.root)]) == 0
    return results


@pytest.fixture(scope="module")
def text(results: Results) -> str:
    return results.report.read_text(encoding="utf-8")


def ids(results: Results) -> list[str]:
    return Evidence(results).workloads["workload"].to_list()


def test_it_leaves_drawings_out_and_says_once_what_is_alike(results: Results, text: str) -> None:
    assert "leaves out their maps, timelines and seconds" in text
    assert "<h3>Timeline</h3>" not in text
    (shared,) = re.findall(r'id="shared">The same for all: (.*)\.</p>', text)
    assert "dtype bf16" in shared.split(", ")
    assert "<dt>dtype</dt>" not in text
    assert text.count("<dt>ep</dt>") == len(ids(results))


def focused(page: WebDriver) -> str | None:
    return page.switch_to.active_element.get_attribute("id")


def test_a_link_builds_the_section_that_it_leads_to(results: Results, tmp_path: Path) -> None:
    first, second, *_ = ids(results)
    with chromium(tmp_path / "profile", 1280, 900) as page:
        page.get(results.report.as_uri())
        assert page.find_elements(By.CLASS_NAME, "workload") == []
        for id_ in (first, second, first):
            page.execute_script("document.querySelector(`#overview a[href='#${arguments[0]}']`).click()", id_)
            (section,) = [
                each for each in page.find_elements(By.CLASS_NAME, "workload") if each.is_displayed()
            ]
            assert (section.get_attribute("id"), focused(page)) == (id_, id_)
            assert "Memory of the worst rank" in section.text
        page.back()
        assert page.find_element(By.ID, second).is_displayed()
        assert page.get_log("browser") == []


def test_an_address_with_a_section_opens_it(results: Results, tmp_path: Path) -> None:
    id_ = ids(results)[2]
    with chromium(tmp_path / "profile", 1280, 900) as page:
        page.get(f"{results.report.as_uri()}#{id_}")
        assert page.find_element(By.ID, id_).is_displayed()


def test_without_script_every_section_is_there(results: Results, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile", 1280, 900) as page:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        id_ = ids(results)[0]
        page.get(f"{results.report.as_uri()}#{id_}")
        assert page.find_element(By.ID, id_).is_displayed()
        assert len(page.find_elements(By.CLASS_NAME, "workload")) == len(ids(results))
