"""results/report.html in a real browser: silent, self-contained, sortable, fit for phones and the dark."""

import base64
import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from answers import make_answers
from browser import chromium, requests
from moesweep.cli import main
from moesweep.report.answer import sentences
from moesweep.report.evidence import Evidence
from moesweep.report.figures.gallery import FIGURES
from moesweep.report.heatmap import SIDE, heat_maps
from moesweep.report.pipeline_map import pipeline_maps
from moesweep.report.scatter import _Axis, scatter
from moesweep.store.layout import Results
from moesweep.store.tablefile import write_table

PHONE, DESKTOP = (390, 844), (1280, 900)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Return results with figures and page."""
    results = make_answers(tmp_path_factory.mktemp("results"))
    for command in ("figures", "report"):
        assert main([command, "--results", str(results.root)]) == 0
    return results


@pytest.fixture(scope="module")
def desktop(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    with chromium(tmp_path_factory.mktemp("profile"), *DESKTOP) as browser:
        yield browser


@pytest.fixture
def page(results: Results, desktop: WebDriver) -> WebDriver:
    """Open the page anew on a desktop."""
    desktop.get("about:blank")
    requests(desktop)
    desktop.get_log("browser")
    desktop.get(results.report.as_uri())
    return desktop


def shown(page: WebDriver) -> list[str]:
    rows = page.find_elements(By.CSS_SELECTOR, "#overview tbody tr")
    return [row.find_element(By.TAG_NAME, "th").text for row in rows if row.is_displayed()]


def header(page: WebDriver, title: str) -> int:
    titles = [cell.text.strip() for cell in page.find_elements(By.CSS_SELECTOR, "#overview thead th")]
    return titles.index(title)


def click(page: WebDriver, title: str) -> str:
    cell = page.find_elements(By.CSS_SELECTOR, "#overview thead th")[header(page, title)]
    page.execute_script("arguments[0].scrollIntoView()", cell)
    cell.find_element(By.TAG_NAME, "button").click()
    return str(cell.get_attribute("aria-sort"))


def ids(results: Results, *columns: str, descending: bool = False) -> list[str]:
    frame = Evidence(results).workloads
    if not columns:
        return frame["workload"].to_list()
    frame = frame.sort(*columns, descending=descending, maintain_order=True)
    return frame["workload"].to_list()


def test_no_error_and_no_request_but_the_page(results: Results, page: WebDriver) -> None:
    assert page.title.startswith("MoE Sweep")
    for id_ in ids(results, "workload"):
        page.execute_script(f"location.hash = '{id_}'")
    assert page.get_log("browser") == []
    asked = {address.partition("#")[0] for address in requests(page)}
    assert {address for address in asked if not address.startswith("data:")} == {results.report.as_uri()}


def test_nothing_in_the_file_points_elsewhere(results: Results) -> None:
    text = results.report.read_text(encoding="utf-8")
    links = set(re.findall(r'(?:src|href)="([^"]*)"', text))
    assert {link for link in links if not link.startswith(("#", "data:"))} == set()
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", text)
    assert "@import" not in text
    assert "None" not in text
    assert "nan" not in re.findall(r"\w+", text)


def test_the_answer_comes_first(results: Results, page: WebDriver) -> None:
    answer = [each.text for each in page.find_elements(By.CSS_SELECTOR, ".answer p")]
    assert answer == sentences(Evidence(results))
    assert len(answer) == 3
    key = page.find_element(By.TAG_NAME, "figure")
    assert key.get_attribute("id") == "figure-ep_scaling"
    assert key.find_element(By.CSS_SELECTOR, "svg[role=img]").is_displayed()


def test_columns_sort_by_number_up_and_down(results: Results, page: WebDriver) -> None:
    assert click(page, "iteration, s") == "ascending"
    assert shown(page) == ids(results, "iteration_seconds")
    assert click(page, "iteration, s") == "descending"
    assert shown(page) == ids(results, "iteration_seconds", descending=True)
    assert click(page, "GPUs") == "ascending"
    first = page.find_elements(By.CSS_SELECTOR, "#overview thead th")[header(page, "iteration, s")]
    assert first.get_attribute("aria-sort") == "none"
    assert click(page, "workload") == "ascending"
    assert shown(page) == ids(results, "workload")


def test_columns_sort_from_the_keyboard(results: Results, page: WebDriver) -> None:
    cell = page.find_elements(By.CSS_SELECTOR, "#overview thead th")[header(page, "peak, GiB")]
    cell.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert shown(page) == ids(results, "peak_memory_bytes")


def test_filters_combine_and_are_counted(results: Results, page: WebDriver) -> None:
    rows = Evidence(results).workloads
    Select(page.find_element(By.ID, "filter-kind")).select_by_value("moe")
    page.find_element(By.ID, "filter-text").send_keys("WS64 ep4")
    (only,) = rows.filter((pl.col("world_size") == 64) & (pl.col("ep") == 4))["workload"]
    assert shown(page) == [only]
    assert page.find_element(By.ID, "count").text == f"1 of {rows.height} workloads"
    assert page.find_element(By.ID, "count").get_attribute("aria-live") == "polite"
    page.find_element(By.CSS_SELECTOR, "#filters button").click()
    assert len(shown(page)) == rows.height
    Select(page.find_element(By.ID, "filter-fits")).select_by_value("no")
    assert shown(page) == rows.filter(~pl.col("fits"))["workload"].to_list()
    Select(page.find_element(By.ID, "filter-model")).select_by_value("odd")
    assert shown(page) == []


def typed(page: WebDriver, words: str) -> list[str]:
    field = page.find_element(By.ID, "filter-text")
    field.clear()
    field.send_keys(words)
    return shown(page)


def test_conditions_filter_by_column_and_stay_in_the_address(results: Results, page: WebDriver) -> None:
    rows = Evidence(results).workloads
    wanted = {
        "ep=2": pl.col("ep") == 2,
        "ep=2..4 gpus>=64": pl.col("ep").is_between(2, 4) & (pl.col("world_size") >= 64),
        "!fits": ~pl.col("fits"),
        "fits kind=dense": pl.col("fits") & (pl.col("kind") == "dense"),
        "model!=odd ws32": (pl.col("model") != "odd") & (pl.col("world_size") == 32),
        "refused": pl.col("workload").is_in(Evidence(results).refused),
    }
    for words, rule in wanted.items():
        assert typed(page, words) == rows.filter(rule)["workload"].to_list(), words
        points = page.find_elements(By.CSS_SELECTOR, "#scatter a:not([hidden])")
        assert {point.get_attribute("data-w") for point in points} == set(shown(page))
    kept = page.current_url
    assert kept.endswith("#?text=refused")
    page.get("about:blank")
    page.get(kept)
    assert sorted(shown(page)) == Evidence(results).refused


def places(path: str) -> list[tuple[float, ...]]:
    return [tuple(map(float, place.split())) for place in path.removeprefix("M").split("L")]


def test_the_scatter_shows_every_workload_and_the_best(results: Results, page: WebDriver) -> None:
    drawn = scatter(Evidence(results))
    assert [point["id"] for point in drawn.points] == ids(results)
    line = places(drawn.line)
    for point in drawn.points:
        place = (point["x"], point["y"])
        bettered = any(
            (each["x"] <= place[0] and each["y"] >= place[1]) and (each["x"], each["y"]) != place
            for each in drawn.points
        )
        assert (place in line) is not bettered
    # The page's script draws the same line as the stage.
    assert places(str(page.find_element(By.CSS_SELECTOR, "#scatter .best").get_attribute("d"))) == line
    # The cheapest lies left of all others, the one that needs least memory lowest.
    left = min(drawn.points, key=lambda point: point["x"])
    assert left["id"] == ids(results, "gpu_hours_per_billion_tokens")[0]
    lowest = max(drawn.points, key=lambda point: point["y"])
    assert lowest["id"] == ids(results, "peak_memory_bytes")[0]


@pytest.mark.parametrize("ends", [(200, 460), (280, 320), (1, 1e6), (7, 7)])
def test_an_axis_has_some_ticks_in_order_between_its_ends(ends: tuple[float, float]) -> None:
    ticks = _Axis(pl.Series(ends, dtype=pl.Float64), 0, 100).ticks()
    assert 4 <= len(ticks) <= 12
    assert [place for place, _ in ticks] == sorted(place for place, _ in ticks)
    assert all(0 <= place <= 100 for place, _ in ticks)
    assert len({text for _, text in ticks}) == len(ticks)


def test_chosen_workloads_stand_side_by_side(results: Results, page: WebDriver) -> None:
    boxes = page.find_elements(By.CSS_SELECTOR, "#overview tbody input")
    button = page.find_element(By.ID, "compare-open")
    page.execute_script("arguments[0].click()", boxes[0])
    assert not button.is_enabled()
    page.execute_script("arguments[0].click()", boxes[1])
    page.execute_script("arguments[0].click()", button)
    side = page.find_elements(By.CSS_SELECTOR, "#compare thead th")
    assert [cell.text for cell in side] == ["workload", *ids(results)[:2]]
    differs = {line.text.split()[0] for line in page.find_elements(By.CSS_SELECTOR, "#compare .differs")}
    assert "ep" in differs
    assert "GPUs" not in differs
    assert "with=" in page.current_url


def test_commands_of_a_section_name_its_workload(results: Results) -> None:
    text = results.report.read_text(encoding="utf-8")
    for id_ in ids(results):
        assert f"<code>moesweep explain {id_} iteration_seconds</code>" in text


def test_a_link_opens_the_section_of_its_workload_and_moves_the_focus(
    results: Results, page: WebDriver
) -> None:
    row = Evidence(results).workloads.filter(pl.col("model") == "odd").row(0, named=True)
    section = page.find_element(By.ID, row["workload"])
    assert not section.is_displayed()
    link = page.find_element(By.LINK_TEXT, row["workload"])
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", link)
    link.click()
    assert section.is_displayed()
    assert page.switch_to.active_element.get_attribute("id") == row["workload"]
    text = section.text
    for words in ("Seconds of an iteration", "Memory of the worst rank", "traffic", "Timeline", "Parameters"):
        assert words in text
    assert "heads_by_tp" in text
    assert "7 attention heads" in text
    section.find_element(By.PARTIAL_LINK_TEXT, "-dense").click()
    assert page.find_element(By.ID, row["twin"]).is_displayed()
    assert not section.is_displayed()


def test_tab_reaches_skip_link_navigation_and_filters(page: WebDriver) -> None:
    reached = []
    for _ in range(10):
        page.switch_to.active_element.send_keys(Keys.TAB)
        active = page.switch_to.active_element
        reached.append(active.get_attribute("id") or active.text)
    assert reached[0] == "Skip to the answer"
    assert {"Answer", "Workloads", "filter-text"} <= set(reached)


# What a screen reader needs: names for every control and picture, one h1, no level left out, no id twice.
AUDIT = """
const name = (e) => e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent.trim();
const all = (s) => Array.from(document.querySelectorAll(s));
const levels = all('h1, h2, h3, h4').map((h) => Number(h.tagName[1]));
const ids = all('[id]').map((e) => e.id);
return {
  unnamed: all('button, input, select, a, svg, [role=region], [role=img]').filter((e) => !name(e))
    .map((e) => e.outerHTML.slice(0, 99)),
  titles: levels.filter((l) => l === 1).length,
  jumps: levels.filter((l, i) => i > 0 && l > levels[i - 1] + 1).length,
  twice: ids.filter((id, i) => ids.indexOf(id) !== i),
  headers: all('th').filter((e) => !e.scope).length,
  lang: document.documentElement.lang,
};
"""


def test_names_levels_and_ids(page: WebDriver) -> None:
    found = page.execute_script(AUDIT)
    assert found == {"unnamed": [], "titles": 1, "jumps": 0, "twice": [], "headers": 0, "lang": "en"}


CONTRAST = """
const parse = (c) => c.match(/[\\d.]+/g).slice(0, 3).map(Number);
const light = (c) => parse(c).map((v) => v / 255)
  .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const style = getComputedStyle(document.body);
return ['body', 'a', '.note', '.warning', 'figcaption', 'thead th'].map((selector) => {
  const element = document.querySelector(selector);
  const own = getComputedStyle(element);
  const behind = own.backgroundColor === 'rgba(0, 0, 0, 0)' ? style.backgroundColor : own.backgroundColor;
  const [a, b] = [light(own.color), light(behind)].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
});
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_fits_the_screen_with_enough_contrast(
    results: Results, tmp_path: Path, size: tuple[int, int], dark: bool
) -> None:
    with chromium(tmp_path / "profile", *size, dark=dark) as browser:
        for id_ in ("", *ids(results, "workload")[:3]):
            browser.get(f"{results.report.as_uri()}#{id_}")
            width = browser.execute_script("return document.documentElement.scrollWidth")
            assert width <= size[0]
        assert min(browser.execute_script(CONTRAST)) >= 4.5
        background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") is not dark


def test_without_script_everything_is_there(results: Results, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile", *DESKTOP) as browser:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        id_ = ids(results, "workload")[0]
        browser.get(f"{results.report.as_uri()}#{id_}")
        assert browser.find_element(By.ID, id_).is_displayed()
        assert len(shown(browser)) == len(ids(results, "workload"))


def test_the_page_s_policy_allows_its_own_script_alone(results: Results) -> None:
    page = results.report.read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in page
    assert page.count("<script") == 1


def test_every_registered_figure_is_on_the_page_in_order(results: Results) -> None:
    page = results.report.read_text(encoding="utf-8")
    places = [page.index(figure.title) for figure in FIGURES.values()]
    assert places == sorted(places)


def test_small_maps_hold_every_pair_of_nodes(results: Results) -> None:
    evidence = Evidence(results)
    for row in heat_maps(evidence, evidence.workloads["workload"]).iter_rows(named=True):
        squares = set()
        for path in row["path"]:
            for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\3z", path):
                squares |= {(int(x) + step, int(y)) for step in range(int(width))}
        assert row["side"] <= SIDE
        cells = evidence.matrix(row["workload"]).filter(pl.col("group_kind") == row["group_kind"])
        side = row["nodes_per_square"]
        assert squares == {(dst // side, src // side) for src, dst in cells.select("src", "dst").iter_rows()}


def test_a_pipeline_ends_with_its_closing_work(results: Results) -> None:
    for ends in pipeline_maps(Evidence(results), Evidence(results).workloads["workload"]).values():
        assert ends[0].low_seconds == 0
        assert "forward" in ends[0].paths
        assert "closing" in ends[-1].paths


def test_the_page_is_the_same_every_time(results: Results) -> None:
    before = results.report.read_bytes()
    assert main(["report", "--results", str(results.root)]) == 0
    assert results.report.read_bytes() == before


def test_a_sweep_without_experts(tmp_path: Path) -> None:
    results = make_answers(tmp_path, only_dense=True)
    for command in ("figures", "report"):
        assert main([command, "--results", str(tmp_path)]) == 0
    text = results.report.read_text(encoding="utf-8")
    assert "no MoE workload with a dense twin" in text
    # What has nothing to show is said in a line, and takes no more room.
    assert '<p class="note" id="figure-skew">No figure “What uneven routing costs”: This sweep has no' in text
    assert '<figure id="figure-skew">' not in text
    assert '<figure id="figure-memory">' in text
    assert "Experts across nodes" not in text


def test_answers_for_another_cluster_are_refused(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as a folder of results that was copied before its costs were made for another cluster."""
    other = Results(Path(shutil.copytree(results.root, tmp_path / "copy")))
    costs = pl.read_parquet(other.costs)
    write_table(costs, other.costs, "costs", {"cluster": "dgx-h100-80gb-8xndr400"})
    for command in ("figures", "report"):
        assert main([command, "--results", str(other.root)]) == 2
        said = capsys.readouterr().err
        assert "is for the cluster dgx-a100-80gb-8xhdr200, and" in said
        assert "for dgx-h100-80gb-8xndr400; run moesweep" in said


def test_missing_figures_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_answers(tmp_path)
    assert main(["report", "--results", str(tmp_path)]) == 2
    assert "ep_scaling.svg: readable: cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
