"""How the naive trace writes down its rows: what multiplies, what moves, what is sent.

Bytes of device memory are counted here, from what each op reads and writes: 2 an element of an activation or
weight, 4 of fp32, 1 of a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from naive_fp8 import in_fp8, quantising, travelling
from naive_sizes import Workload, activation_bytes, gradient_bytes, group_size, repeated, scattered

Row = dict[str, Any]


class Writer:
    """Writes down the rows of one pipeline stage in the order in which they run."""

    def __init__(self, w: Workload, stage: int) -> None:
        self.w = w
        self.stage = stage
        self.phase = "forward"
        self.layer = -1
        self.prefix = ""
        self.times = int(w["num_microbatches"])
        self.rows: list[Row] = []

    def add(self, op: str, kind: str, **values: Any) -> None:
        """Append a row; whatever is not given does not apply."""
        row: Row = {"op_index": len(self.rows), "stage": self.stage, "phase": self.phase, "layer": self.layer}
        row |= {"op": self.prefix + op, "kind": kind, "m": 0, "n": 0, "k": 0, "groups": 0, "flops": 0}
        row |= {"hbm_bytes": 0, "collective": None, "group_kind": None, "group_size": 0}
        row |= {"comm_bytes": 0, "wire_bytes": 0, "num_microbatches": self.times}
        self.rows.append(row | values)

    def light(
        self, op: str, elements: int, reads: tuple[int, ...] = (), writes: tuple[int, ...] = ()
    ) -> None:
        """A memory-bound op: bytes read and written for each of so many elements."""
        self.add(op, "elementwise", hbm_bytes=elements * (sum(reads) + sum(writes)))

    def gemm(self, op: str, m: int, n: int, k: int, experts: int = 1, kind: str = "gemm") -> None:
        """[m, k] times [k, n]: a multiplication and an addition per term; every expert has its own [k, n]."""
        moved = 2 * m * k + 2 * experts * k * n + 2 * m * n
        if in_fp8(self.w, op.removesuffix("_dgrad")):
            moved = m * k + experts * k * n + 2 * m * n + quantising(self.w) * m * k
        self.add(op, kind, m=m, n=n, k=k, groups=experts, flops=2 * m * n * k, hbm_bytes=moved)

    def gradients(self, op: str, m: int, n: int, k: int, experts: int = 1, kind: str = "gemm") -> list[Row]:
        """Of y[m, n] = x[m, k] w[k, n]: that of x, and that of w, which is added to the main gradient."""
        self.gemm(f"{op}_dgrad", m, k, n, experts, kind)
        # The input and the output's gradient are read; of the sum, what was there is read and then written.
        summed = gradient_bytes(self.w) * experts * n * k
        width = 1 if in_fp8(self.w, op) else 2
        moved = width * m * k + width * m * n + summed + summed
        shape = {"m": n, "n": k, "k": m, "groups": experts, "flops": 2 * m * n * k}
        self.add(f"{op}_wgrad", kind, **shape, hbm_bytes=moved)
        return self.rows[-2:]

    def collect(self, op: str, collective: str, group_kind: str, comm_bytes: int) -> None:
        """A collective; alone in a group there is nothing to send."""
        size = group_size(self.w, group_kind)
        if size == 1:
            return
        # A sum that everyone needs travels twice: once to be summed, once to be spread.
        passes = 2 if collective == "all_reduce" else 1
        wire = passes * (size - 1) * comm_bytes // size
        self.message(op, "collective", collective, group_kind, comm_bytes, wire)

    def message(self, op: str, kind: str, collective: str, group: str, comm: int, wire: int) -> None:
        """A row that moves bytes between ranks."""
        words: Row = {"collective": collective, "group_kind": group, "group_size": group_size(self.w, group)}
        self.add(op, kind, **words, comm_bytes=comm, wire_bytes=wire)

    def neighbour(self, op: str, collective: str, times: int) -> None:
        """A message from or to a neighbouring stage, as often as there is one."""
        w = self.w
        if w["pp"] == 1 or times == 0:
            return
        # Megatron-LM cuts a whole activation for the journey and puts it together on arrival.
        on_arrival = w["framework"] == "megatron-lm" and w["tp"] > 1 and not scattered(w)
        everyday, self.times = self.times, times
        size = activation_bytes(w) // w["tp"] if scattered(w) or on_arrival else activation_bytes(w)
        self.message(op, "p2p", collective, "pp", size, size if collective == "send" else 0)
        if on_arrival and collective == "recv":
            self.collect(f"{op}_gather", "all_gather", "tp", activation_bytes(w))
        self.times = everyday

    def again(self, module: str, forward: Callable[[], None]) -> None:
        """What a module does, once more, where its recomputation is asked for."""
        if repeated(self.w, module):
            self.prefix = "recompute_"
            forward()
            self.prefix = ""

    # Linears that are cut over tp

    def column_parallel(self, name: str, base: str, m: int, n: int, k: int) -> None:
        """Whole rows of the input times some columns of the weight."""
        if scattered(self.w):
            self.collect(f"{base}_gather", "all_gather", "tp", travelling(self.w, name, m * k))
        self.gemm(name, m, n, k)

    def column_parallel_backward(self, name: str, base: str, m: int, n: int, k: int) -> None:
        """Gather the saved slice of the input, input gradient, sum it over tp, weight gradient."""
        whole = 2 * m * k
        if scattered(self.w):
            self.collect(f"{base}_regather", "all_gather", "tp", travelling(self.w, name, m * k))
        _, of_weight = self.gradients(name, m, n, k)
        self.rows.pop()
        if scattered(self.w):
            self.collect(f"{base}_gather", "reduce_scatter", "tp", whole)
        else:
            self.collect(f"{base}_reduce_grad", "all_reduce", "tp", whole)
        self.rows.append(of_weight | {"op_index": len(self.rows)})

    def row_parallel(self, name: str, base: str, m: int, n: int, k: int) -> None:
        """Some columns of the input times some rows of the weight: every rank has a part of each sum."""
        self.gemm(name, m, n, k)
        if scattered(self.w):
            self.collect(f"{base}_scatter", "reduce_scatter", "tp", 2 * m * n)
        else:
            self.collect(f"{base}_reduce", "all_reduce", "tp", 2 * m * n)

    def row_parallel_backward(self, name: str, base: str, m: int, n: int, k: int) -> None:
        """Gather the output gradient, then both products."""
        if scattered(self.w):
            self.collect(f"{base}_scatter", "all_gather", "tp", travelling(self.w, name, m * n))
        self.gradients(name, m, n, k)

    # Ops around them

    def norm(self, op: str, count: int, width: int) -> None:
        """Read x, write y."""
        self.light(op, count * width, reads=(2,), writes=(2,))

    def norm_backward(self, op: str, count: int, width: int, *, residual: bool = False) -> None:
        """Read x and dy, write dx; where a residual goes past it, read both gradients and write their sum."""
        self.light(op, count * width, reads=(2, 2), writes=(2,))
        if residual:
            self.rows[-1]["hbm_bytes"] += count * width * (2 + 2 + 2)
