"""Whether workloads make sense: the rules applied to a frame of them.

Errors are what has no meaning or what no framework runs, and stop the run before any trace. Warnings are what
Megatron would refuse or what is likely to be a mistake, but what the study lists and a trace can express.
Of memory only the least is judged here, the states of the parameters: the cost stage knows the rest.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl

from moesweep.edge.problems import BadInput, Problem, and_more, collect
from moesweep.edge.schema import load_schema
from moesweep.shapes.offloading import least_activations_on_host
from moesweep.shapes.standing import GPUS_PER_NODE
from moesweep.shapes.states import least_host_bytes, least_state_bytes
from moesweep.study.of_clusters import with_constants_of_rules
from moesweep.study.rule import Rule
from moesweep.study.rules import RULES
from moesweep.study.sweep import Sweep, sound_part
from moesweep.study.workload import with_value

Judged = Callable[[pl.DataFrame], pl.DataFrame]
Clusters = Mapping[str, Mapping[str, float]]
"""Constants of clusters by name, for what rules read of a GPU."""

COLUMNS = ("workload", "severity", "rule", "message", "value", "suggestion")


def checked(
    root: Path,
    path: Path | str,
    gpus_per_node: int = GPUS_PER_NODE,
    usable_hbm_bytes: float = math.inf,
    clusters: Clusters | None = None,
) -> tuple[Sweep, pl.DataFrame]:
    """Enumerate and validate a sweep file; raise BadInput with every fault that either finds."""
    sweep, problems = sound_part(root, path)
    warnings = None
    if sweep is not None:
        warnings = collect(problems, validate, sweep, gpus_per_node, usable_hbm_bytes, clusters)
    if sweep is None or warnings is None or problems:
        raise BadInput(problems)
    return sweep, warnings


def validate(
    sweep: Sweep,
    gpus_per_node: int = GPUS_PER_NODE,
    usable_hbm_bytes: float = math.inf,
    clusters: Clusters | None = None,
) -> pl.DataFrame:
    """The warnings about a sweep as text columns: workload severity rule message value suggestion.

    `usable_hbm_bytes` is a GPU's memory without what the framework reserves; memory is not judged without it.
    Ordered by workload, then by rule. Raises BadInput with all errors, if there are any.
    """
    found = findings(sweep.workloads, gpus_per_node, usable_hbm_bytes, clusters)
    errors = found.filter(severity="error")
    if errors.height:
        raise BadInput(_problems(errors, sweep))
    return found.select(COLUMNS)


def findings(
    workloads: pl.DataFrame,
    gpus_per_node: int = GPUS_PER_NODE,
    usable_hbm_bytes: float = math.inf,
    clusters: Clusters | None = None,
) -> pl.DataFrame:
    """Every broken rule of every workload, warnings and errors: COLUMNS and the rule's key, in order.

    A GPU's formats are judged on `clusters`: the one of a workload's column `cluster`, or else the only one.
    """

    def judged(frame: pl.DataFrame) -> pl.DataFrame:
        """The columns that rules read beside a workload's own."""
        return with_constants_of_rules(frame, clusters or {}).with_columns(
            gpus_per_node=pl.lit(gpus_per_node, pl.Int64),
            usable_gib=pl.lit(max(usable_hbm_bytes / 2**30, 0.1)).round(1),
            least_state_gib=(least_state_bytes() / 2**30).round(1),
            least_host_gib=(least_host_bytes() / 2**30).round(1),
            least_on_host_gib=((least_host_bytes() + least_activations_on_host()) / 2**30).round(1),
            host_gib=(pl.col("host_bytes") / 2**30).round(1),
        )

    frame = judged(workloads)
    broken = frame.select(rule.violated.alias(rule.name) for rule in RULES)
    frame = frame.with_row_index("at")
    breaking = [rule for rule in RULES if broken[rule.name].any()]
    # polars panics where it formats columns that lie in memory in pieces.
    parts = [_finding(rule, frame.filter(broken[rule.name]).rechunk(), judged) for rule in breaking]
    empty = pl.DataFrame(schema={"at": pl.UInt32, **dict.fromkeys((*COLUMNS, "key"), pl.String)})
    return pl.concat([empty, *parts]).sort("at", maintain_order=True).drop("at")


def _finding(rule: Rule, violating: pl.DataFrame, judged: Judged) -> pl.DataFrame:
    found = violating.select(
        "at",
        "workload",
        severity=pl.lit(rule.severity),
        rule=pl.lit(rule.name),
        message=_filled(rule.message),
        value=pl.col(rule.key).cast(pl.String),
        suggestion=rule.nearest,
        key=pl.lit(rule.key),
    )
    return found if rule.also is None else _with_another(found, rule, violating, judged)


def _with_another(found: pl.DataFrame, rule: Rule, violating: pl.DataFrame, judged: Judged) -> pl.DataFrame:
    """The findings, with the least greater value of the rule's other key that mends it, if one does."""
    key, values = rule.also or ("", pl.lit(None))
    tried = violating.with_columns(tried=values).explode("tried").filter(pl.col("tried") > pl.col(key))
    tried = judged(with_value(tried, key, pl.col("tried")))
    mending = tried.filter(~rule.violated).group_by("at").agg(pl.col("tried").min())
    return (
        found.join(mending, on="at", how="left", maintain_order="left")
        .with_columns(pl.concat_str("suggestion", pl.format(f", or {key} {{}}", "tried").fill_null("")))
        .drop("tried")
    )


def _filled(template: str) -> pl.Expr:
    """The template with each `{column}` replaced by its value."""
    columns = re.findall(r"{(\w+)}", template)
    return pl.format(re.sub(r"{\w+}", "{}", template), *columns)


def _problems(errors: pl.DataFrame, sweep: Sweep) -> list[Problem]:
    """The errors as problems, each placed where the sweep or the model file says the offending value.

    What breaks one rule at one place is one problem, with the count of workloads.
    """
    origins = sweep.origins.with_columns(sweep.workloads["model"])
    placed = errors.join(origins, on="workload", maintain_order="left").rechunk().with_columns(*_place())
    columns = ("value", "message", "suggestion", "severity", "workload")
    alike = placed.group_by("file", "path", "rule", maintain_order=True).agg(pl.first(*columns), pl.len())
    message = pl.col("message") + pl.col("len").map_elements(and_more, return_dtype=pl.String)
    return [
        Problem(*row) for row in alike.select("file", "path", "rule", "value", message, *columns[2:]).rows()
    ]


def _place() -> tuple[pl.Expr, pl.Expr]:
    """(file, path) of a finding's key: its own entry, the options, the model's file, or else its entry."""
    in_entry = pl.col("own").list.contains(pl.col("key"))
    in_options = ~in_entry & pl.col("options").list.contains(pl.col("key"))
    model_keys = list(load_schema("model")["properties"])
    in_model = ~in_entry & ~in_options & pl.col("key").is_in(model_keys)
    model_file = pl.format("config/models/{}.yaml", "model")
    entry = pl.when(in_options).then(pl.lit("options")).otherwise("entry")
    return (
        pl.when(in_model).then(model_file).otherwise("file").alias("file"),
        pl.when(in_model).then("key").otherwise(pl.format("{}.{}", entry, "key")).alias("path"),
    )
