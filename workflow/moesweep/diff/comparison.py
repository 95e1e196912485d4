"""Two result folders compared: everything that the outputs show."""

from dataclasses import dataclass
from functools import cached_property

import polars as pl

from moesweep.diff.changes import InputChange, changed_inputs, moved, only_in
from moesweep.diff.effects import effects
from moesweep.diff.folder import Folder
from moesweep.store.provenance import code_checksums


@dataclass(frozen=True)
class Comparison:
    """Folders A and B, and how far two numbers may lie apart before they count as moved, as a share."""

    a: Folder
    b: Folder
    tolerance: float

    @property
    def equal(self) -> bool:
        """Whether both have the same workloads with the same costs."""
        return not (self.only_a or self.only_b) and self.moved.is_empty()

    @cached_property
    def only_a(self) -> list[str]:
        """The workloads that B lacks."""
        return only_in(self.a, self.b)

    @cached_property
    def only_b(self) -> list[str]:
        """The workloads that A lacks."""
        return only_in(self.b, self.a)

    @cached_property
    def inputs(self) -> list[InputChange]:
        """The inputs that differ."""
        return changed_inputs(self.a, self.b)

    @cached_property
    def moved(self) -> pl.DataFrame:
        """The cost columns that differ: workload, column, a, b, change, share."""
        return moved(self.a, self.b, self.tolerance)

    @cached_property
    def effects(self) -> pl.DataFrame:
        """What each changed input does alone to the workloads that moved."""
        return effects(self.a, self.b, self.inputs, self.moved_ids)

    @cached_property
    def moved_ids(self) -> list[str]:
        """The workloads that moved, those first whose iteration changes by the largest share."""
        iteration = pl.col("share").filter(pl.col("column") == "iteration_seconds").first().abs()
        return (
            self.moved.group_by("workload", maintain_order=True)
            .agg(iteration.alias("by"))
            .sort("by", descending=True, nulls_last=True, maintain_order=True)["workload"]
            .to_list()
        )

    @property
    def same_code(self) -> bool:
        """Whether the code at hand made both folders, so that nothing but inputs can have moved a number."""
        return self.a.inputs.code == self.b.inputs.code == code_checksums()

    @property
    def in_both(self) -> int:
        """How many workloads both have."""
        return len(self.a.ids) - len(self.only_a)
