"""The parts of a screen on disk: each is written once, named by what it was made from, and joined at the end.

An interrupted screen goes on where it stopped, and shards of one screen meet here: `OUT.parts/` holds what
is done until the last part is, then becomes OUT.
"""

import fcntl
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from moesweep.screen.choice import Choice
from moesweep.screen.points import COLUMNS, POSITION
from moesweep.store.tablefile import metadata, whole

TABLE = "screen"


@dataclass(frozen=True)
class Kept:
    """The parts of the screen that becomes `out`; `made_from` is the digest of all that it depends on."""

    out: Path
    made_from: str
    refused: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the parts lie until they are joined."""
        return self.out.with_name(f"{self.out.name}.parts")

    def has(self, number: int) -> bool:
        """Return whether a part is there and of this screen."""
        try:
            return pl.read_parquet_metadata(self._part(number)).get("moesweep.made_from") == self.made_from
        except (OSError, pl.exceptions.PolarsError):
            return False

    def keep(
        self,
        number: int,
        points: pl.DataFrame,
        refused: pl.DataFrame,
        left_out: Mapping[str, int],
        legal: int,
    ) -> None:
        """Write a part: what is kept of its points, and what was left out why."""
        if self.refused is not None:
            with whole(self._refused(number)) as partial:
                refused.write_parquet(partial)
        facts = {"made_from": self.made_from, "left_out": json.dumps(dict(left_out)), "legal": str(legal)}
        with whole(self._part(number)) as partial:
            # Read once more and written again: quick to read.
            points.write_parquet(partial, compression="lz4", metadata=metadata(TABLE, facts))

    def counts(self, numbers: Iterable[int]) -> tuple[int, Counter[str]]:
        """Return the legal points of parts, and how many others each reason left out, in their order."""
        legal, reasons = 0, Counter[str]()
        for number in numbers:
            facts = pl.read_parquet_metadata(self._part(number))
            legal += int(facts["moesweep.legal"])
            reasons.update(json.loads(facts["moesweep.left_out"]))
        return legal, reasons

    def join(self, numbers: list[int], choice: Choice) -> pl.DataFrame:
        """Make the parts one file, kept of all of them; return its points, of all of them POSITION alone.

        The parts are removed.
        """
        paths = [self._part(number) for number in numbers]
        known = metadata(TABLE, {"made_from": self.made_from})
        with whole(self.out) as partial:
            if choice.top is None and not choice.pareto:
                every = pl.scan_parquet(paths, hive_partitioning=False, glob=False)
                every.select(COLUMNS).sink_parquet(partial, compression_level=1, metadata=known)
                points = every.select(POSITION).collect()
            else:
                points = choice.of(pl.concat(pl.read_parquet(path, glob=False) for path in paths))
                points.select(COLUMNS).write_parquet(partial, compression_level=1, metadata=known)
        if self.refused is not None:
            with whole(self.refused) as partial:
                lost = [pl.scan_parquet(self._refused(number), glob=False) for number in numbers]
                pl.concat(lost).sink_parquet(partial)
        self.discard()
        return points

    def discard(self) -> None:
        """Remove the parts: they are joined, or will never be."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder of the parts: of several shards one joins."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:06}.parquet"

    def _refused(self, number: int) -> Path:
        return self.folder / f"refused-{number:06}.parquet"


def digest(*parts: str) -> str:
    """Return the first 16 digits of the SHA-256 over texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
