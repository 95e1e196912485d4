"""A screen: every part of a space costed and kept, in one run or several, then joined."""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

import polars as pl

from moesweep.edge.problems import BadInput, Problem, collect
from moesweep.screen.choice import Choice
from moesweep.screen.kept import Kept, digest
from moesweep.screen.points import COLUMNS, costed_points
from moesweep.store.provenance import code_checksum
from moesweep.study.blocks import CLUSTER
from moesweep.study.catalog import Cluster, load_cluster
from moesweep.study.configured import Configuration
from moesweep.study.space import Part, Space, nothing_left

AT_ONCE = 1 << 20
"""Most points of a part: the more, the more of them share what is evaluated; this many take about 2 GB."""

LAYOUT = (
    *("model", "world_size", "tp", "pp", "cp", "ep", "etp", "dp", "edp", "virtual_pipeline"),
    *("global_batch_size", "micro_batch_size", "seq_length", "recompute"),
)
"""What tells the points of a screen apart, as people look at them; the workload's id says the rest."""

LEAST_AT_ONCE = 10_000
"""Points of a part where a space is shared out to many shards."""


@dataclass(frozen=True)
class Screened:
    """What a run of a screen has come to.

    space     its points, legal or not; `legal` of them
    left_out  reason -> points
    missing   parts that other shards have not made yet; where there are any, nothing is joined
    points    what is kept; POSITION alone where nothing was chosen; None while parts are missing
    """

    space: int
    legal: int
    left_out: Mapping[str, int]
    missing: int
    points: pl.DataFrame | None


def clusters_of(space: Space, configuration: Configuration) -> dict[str, Cluster]:
    """Return the clusters that a space names, else the configured one; raise BadInput for unknown ones."""
    named: dict[str, None] = {}
    for block in space.blocks:
        frames = [block.constants, *(axis.values for axis in block.axes)]
        for frame in frames:
            if CLUSTER in frame.columns:
                named |= dict.fromkeys(frame[CLUSTER].drop_nulls().cast(pl.String))
    if not named:
        cluster = configuration.cluster()
        return {cluster.name: cluster}
    problems: list[Problem] = []
    place = (space.file.said.file, CLUSTER)
    found = {name: collect(problems, load_cluster, configuration.root, name, place) for name in named}
    if problems:
        raise BadInput(problems)
    return {name: cluster for name, cluster in found.items() if cluster is not None}


def parts_of(space: Space, shards: int) -> list[Part]:
    """Return the parts of a space, at least one a shard where it has as many points."""
    return list(space.parts(min(AT_ONCE, max(-(-space.size // shards), LEAST_AT_ONCE))))


def made_from(
    space: Space, clusters: Mapping[str, Cluster], choice: Choice, parts: list[Part], refused: bool
) -> str:
    """Return the digest of all that a screen's parts depend on."""
    said = space.file.said
    listed = [space.file.listed, said.options, said.models, space.file.twins]
    asked = json.dumps(listed, sort_keys=True, default=str)
    told = {name: [cluster.values, cluster.network.numbers()] for name, cluster in clusters.items()}
    constants = json.dumps(told)
    code = code_checksum("moesweep.screen.run")
    return digest(asked, constants, repr(choice), str(len(parts)), str(refused), code)


def screen(
    space: Space,
    clusters: Mapping[str, Cluster],
    choice: Choice,
    kept: Kept,
    parts: list[Part],
    shard: tuple[int, int] = (1, 1),
) -> Screened:
    """Cost the parts of a space that are a shard's, and join all parts once the last one is there.

    `shard` (1, 4) is the first of four. Parts that a run before has made are taken as they are. Raises
    BadInput where no point is legal, or where a condition cannot be asked of the points; what other shards
    are making is all that stays then.
    """
    space = space.on({name: cluster.values for name, cluster in clusters.items()})
    mine = [part for part in parts if part.number % shard[1] == shard[0] - 1]
    progress = Progress(len(mine))
    for part in progress.over(mine):
        if kept.has(part.number):
            continue
        batch = space.batch(part, with_refused=kept.refused is not None)
        try:
            points = costed_points(space, part, batch, clusters)
        except BadInput:
            if shard[1] == 1:
                kept.discard()
            raise
        kept.keep(part.number, choice.of(points), batch.refused, batch.left_out, points.height)
    with kept.alone():
        missing = [part.number for part in parts if not kept.has(part.number)]
        numbers = [part.number for part in parts if part.number not in set(missing)]
        legal, left_out = kept.counts(numbers)
        if not legal and not missing:
            kept.discard()
            raise BadInput([nothing_left(space, left_out)])
        joined = None if missing else kept.join(numbers, choice)
    return Screened(space.size, legal, left_out, len(missing), joined)


def screened(space: Space, clusters: Mapping[str, Cluster], choice: Choice) -> pl.DataFrame:
    """Return the points of a space that are kept, in memory: LAYOUT, then the columns of a screen.

    Raises BadInput where no point is legal.
    """
    space = space.on({name: cluster.values for name, cluster in clusters.items()})
    kept, left_out = [], Counter[str]()
    for part in space.parts(AT_ONCE):
        batch = space.batch(part)
        left_out.update(batch.left_out)
        if batch.workloads.height:
            points = costed_points(space, part, batch, clusters)
            kept.append(choice.of(points.hstack(batch.workloads.select(LAYOUT))))
    if not kept:
        raise BadInput([nothing_left(space, left_out)])
    return choice.of(pl.concat(kept)).select(*LAYOUT, *COLUMNS)


class Progress:
    """`3/12 parts, 40 s` on stderr, where that is a terminal."""

    def __init__(self, total: int) -> None:
        self.total, self.start, self.shown = total, monotonic(), sys.stderr.isatty()

    def over(self, parts: Sequence[Part]) -> Iterator[Part]:
        """Yield the parts and show how many are done."""
        for done, part in enumerate(parts, start=1):
            yield part
            if self.shown:
                end = "\n" if done == self.total else "\r"
                seconds = monotonic() - self.start
                print(f"{done}/{self.total} parts, {seconds:.0f} s", end=end, file=sys.stderr, flush=True)
