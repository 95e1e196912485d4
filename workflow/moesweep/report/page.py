"""results/report.html: the whole study on one page that needs no network."""

from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from shlex import quote
from typing import Any

import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from moesweep import __version__
from moesweep.edge.paths import SHIPPED
from moesweep.report import networks, words
from moesweep.report.answer import about, experts_across_nodes, sentences, within_band
from moesweep.report.evidence import Evidence
from moesweep.report.figures.gallery import FIGURES, OWN_SECTIONS
from moesweep.report.figures.ink import MEMORY, PARTS, PASSES
from moesweep.report.inline import inline_figure
from moesweep.report.options import options
from moesweep.report.overview import columns, overview
from moesweep.report.scatter import scatter
from moesweep.report.sections import sections
from moesweep.store.layout import Results
from moesweep.store.tablefile import whole
from moesweep.study.configured import defaults

TEMPLATES = Path(__file__).parent / "templates"
CAPTIONS = SHIPPED / "workflow/report/figures"

MOST_DRAWN = 400
"""Workloads of a page that shows the maps and the timeline of each: of more they would fill 10 MB."""


def write_report(results: Results) -> None:
    """Write the page; raise BadInput if a result or a figure is missing."""
    text = _render(Evidence(results))
    with whole(results.report) as partial:
        partial.write_text(text, encoding="utf-8")


def _render(evidence: Evidence) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "rounded": words.rounded,
        "size": words.size,
        "seconds": words.seconds,
        "percent": words.percent,
    }
    return environment.get_template("report.html.jinja").render(_context(evidence))


def _context(evidence: Evidence) -> dict[str, Any]:
    across, moe = experts_across_nodes(evidence)
    shown, told = columns(evidence), sections(evidence)
    drawn = len(told) <= MOST_DRAWN
    # Ours, not a user's: they go into the page as they are.
    own = {
        name: Markup((TEMPLATES / name).read_text(encoding="utf-8")) for name in ("report.css", "report.js")
    }
    return {
        "version": __version__,
        "cluster": evidence.cluster,
        "hbm_bytes": evidence.cluster.value("hbm_bytes"),
        "style": own["report.css"],
        "script": own["report.js"],
        "script_digest": Markup(b64encode(sha256(own["report.js"].encode()).digest()).decode()),
        "about": about(evidence),
        "sentences": sentences(evidence),
        "within_band": within_band(evidence),
        "networks": list(networks.sentences(networks.slower(evidence.topologies))),
        "scatter": scatter(evidence),
        "figures": [
            _figure(evidence, name, each.title) for name, each in FIGURES.items() if name not in OWN_SECTIONS
        ],
        "own": {name: _figure(evidence, name, FIGURES[name].title) for name in OWN_SECTIONS},
        "columns": shown,
        "overview": overview(evidence, shown),
        "options": options(evidence),
        "skew": evidence.table("skew_sensitivity").to_dicts(),
        "models": evidence.workloads["model"].unique(maintain_order=True).to_list(),
        "claims": evidence.table("ep_claims").filter(pl.col("verdict") != "untested").to_dicts(),
        "of_experts": not (evidence.ep_scaling.is_empty() and evidence.pairs.is_empty()),
        "across": across,
        "unlike": evidence.workloads.filter(validated="outside").height,
        "workloads": evidence.workloads.height,
        "moe": moe,
        "warnings": _warnings(evidence),
        "tags": _tags(evidence),
        "shared": {} if drawn else _told_once(told),
        "sections": told,
        "where": _where(evidence.results.root),
        "drawn": drawn,
        "colours": {"part": PARTS, "memory": MEMORY, "pass": PASSES},
    }


def _told_once(told: list[dict[str, Any]]) -> dict[str, Any]:
    """Take the parameters that all workloads have in common out of their sections, and return them."""
    first = {
        (title, name): value for title, own in told[0]["parameters"].items() for name, value in own.items()
    }
    shared = {
        (title, name): value
        for (title, name), value in first.items()
        if all(each["parameters"][title][name] == value for each in told)
    }
    for title, name in shared:
        for each in told:
            del each["parameters"][title][name]
    return {name: value for (_, name), value in shared.items()}


def _where(results: Path) -> str:
    """Return the option by which commands find these results; a page names no path of a machine."""
    if results == Path(defaults()["results"]) or results.is_absolute():
        return ""
    return f" --results {quote(str(results))}"


def _figure(evidence: Evidence, name: str, title: str) -> dict[str, Any]:
    caption = " ".join((CAPTIONS / f"{name}.rst").read_text(encoding="utf-8").split()).replace("*", "")
    svg, left_out = inline_figure(evidence.results, name, title)
    return {"name": name, "title": title, "caption": caption, "svg": Markup(svg), "left_out": left_out}


def _warnings(evidence: Evidence) -> list[dict[str, Any]]:
    by_rule = evidence.validation.group_by("rule", maintain_order=True)
    return by_rule.agg(pl.len().alias("workloads"), pl.col("message").first()).to_dicts()


def _tags(evidence: Evidence) -> dict[str, int]:
    tags = [constant.tag for constant in evidence.cluster.constants.values()]
    return {tag: tags.count(tag) for tag in sorted(set(tags))}
