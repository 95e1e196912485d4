"""One op of a program: what it is, when it is there, and its quantities as polars expressions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import polars as pl

from moesweep.shapes.precision import UNQUANTISED_OPS, operand_bytes, quantised_bytes
from moesweep.shapes.sizes import ELEMENT_BYTES, GROUP_SIZE, gradient_bytes, repeats

ZERO = pl.lit(0, dtype=pl.Int64)
ALWAYS = pl.lit(True)


@dataclass(frozen=True)
class Op:
    """An op and its quantities over the columns of a workload (or of one of its stages).

    `when` says whether the op is there, `count` how often it then runs in one iteration: at least once.
    `m n k groups` give the shape, `flops` the executed floating-point operations, `hbm_bytes` the
    bytes read and written in device memory, `comm_bytes` the logical message, `own_bytes` the part of
    an uneven all_to_all that stays; all for one rank.
    """

    name: str
    kind: str
    when: pl.Expr = ALWAYS
    m: pl.Expr = ZERO
    n: pl.Expr = ZERO
    k: pl.Expr = ZERO
    groups: pl.Expr = ZERO
    flops: pl.Expr = ZERO
    hbm_bytes: pl.Expr = ZERO
    collective: str | None = None
    group_kind: str | None = None
    comm_bytes: pl.Expr = ZERO
    own_bytes: pl.Expr | None = None
    count: pl.Expr = pl.col("num_microbatches")

    def only(self, when: pl.Expr) -> "Op":
        """Return the same op, there only where `when` holds too."""
        return replace(self, when=self.when & when)

    def times(self, count: pl.Expr) -> "Op":
        """Return the same op, run `count` times an iteration wherever it is there."""
        return replace(self, count=count)

    def recomputed(self) -> "Op":
        """Return the op as its backward pass repeats it under activation recomputation."""
        return replace(self, name=f"recompute_{self.name}")


def again(module: str, ops: Sequence[Op]) -> list[Op]:
    """Return the ops of a module as a backward pass repeats them where selective recomputation names it."""
    return [op.recomputed().only(repeats(module)) for op in ops]


def gemm(
    name: str, m: pl.Expr, n: pl.Expr, k: pl.Expr, kind: str = "gemm", groups: pl.Expr | None = None
) -> Op:
    """Return [m, k] x [k, n]: 2mnk flops; reads both operands, writes the product, 2 bytes each.

    With `groups`, m is the rows of all groups together and each group has its own [k, n] weight. In fp8 the
    operands are 1 byte each, and the first one is quantised before: read in 16 bits, written twice.
    """
    operand, quantised = _of_operands(name)
    groups = pl.lit(1, dtype=pl.Int64) if groups is None else groups
    return Op(
        name,
        kind,
        m=m,
        n=n,
        k=k,
        groups=groups,
        flops=2 * m * n * k,
        hbm_bytes=operand * (m * k + groups * k * n) + ELEMENT_BYTES * m * n + quantised * m * k,
    )


def _of_operands(name: str) -> tuple[pl.Expr, pl.Expr]:
    """Return the bytes of an element of a product's operands, and what quantising the first one moves."""
    if name in UNQUANTISED_OPS:
        return pl.lit(ELEMENT_BYTES), ZERO
    return operand_bytes, quantised_bytes


def linear_backward(forward: Op) -> tuple[Op, Op]:
    """Return the data-gradient and weight-gradient GEMMs of a forward GEMM y[m, n] = x[m, k] w[k, n].

    dx[m, k] = dy[m, n] wT; dw[n, k] += dyT[n, m] x[m, k]. The weight gradient is accumulated into
    the main gradient, read and written: 4 bytes, or 2 (Megatron `gradient_accumulation_fusion`). In fp8 the
    first quantises dy as x was before: transposed too, which the second reads.
    """
    dgrad = gemm(f"{forward.name}_dgrad", forward.m, forward.k, forward.n, forward.kind, forward.groups)
    wgrad_bytes = (
        _of_operands(forward.name)[0] * forward.m * (forward.k + forward.n)
        + 2 * gradient_bytes * forward.groups * forward.n * forward.k
    )
    wgrad = replace(
        gemm(f"{forward.name}_wgrad", forward.n, forward.k, forward.m, forward.kind, forward.groups),
        hbm_bytes=wgrad_bytes,
    )
    return replace(dgrad, when=forward.when), replace(wgrad, when=forward.when)


def elementwise(name: str, hbm_bytes: pl.Expr) -> Op:
    """Return a memory-bound op; its few vector flops are not counted."""
    return Op(name, "elementwise", hbm_bytes=hbm_bytes)


def _communication(collective: str) -> Callable[[str, str, pl.Expr], Op]:
    kind = "p2p" if collective in ("send", "recv") else "collective"

    def make(name: str, group_kind: str, comm_bytes: pl.Expr) -> Op:
        """Return one such op, there where its group has several members."""
        return Op(
            name,
            kind,
            when=GROUP_SIZE[group_kind] > 1,
            collective=collective,
            group_kind=group_kind,
            comm_bytes=comm_bytes,
        )

    return make


# comm_bytes is the gathered size, the input size, the buffer, the send buffer, the message.
all_gather = _communication("all_gather")
reduce_scatter = _communication("reduce_scatter")
all_reduce = _communication("all_reduce")
all_to_all = _communication("all_to_all")
send = _communication("send")
recv = _communication("recv")

_PER_RANK_SHARE = {"all_gather": 1, "reduce_scatter": 1, "all_to_all": 1, "all_reduce": 2}


def wire_bytes(op: Op) -> pl.Expr:
    """Return the bytes that the rank puts on links: f·(n-1)/n of `comm_bytes`, f = 2 for all_reduce.

    The message itself for a send, 0 for a recv (nccl-tests, doc/PERFORMANCE.md). Of an uneven
    all_to_all, all but what stays.
    """
    if op.own_bytes is not None:
        return op.comm_bytes - op.own_bytes
    if op.collective in _PER_RANK_SHARE and op.group_kind is not None:
        size = GROUP_SIZE[op.group_kind]
        return _PER_RANK_SHARE[op.collective] * (size - 1) * op.comm_bytes // size
    return op.comm_bytes if op.collective == "send" else ZERO
