"""A second opinion on the trace: every row of every rank, from plain loops.

Written from the description of a Megatron-Core iteration alone and sharing no code with the library, so that
agreement of the two means something. Made to be read, not to be fast: use it on small workloads. Bytes per
activation, weight and parameter message are 2 (bf16 or fp16), per gradient 4 (bf16 sums in fp32) or 2 (fp16).
"""

from __future__ import annotations

from typing import Any

from naive_layout import coordinates, naive_groups
from naive_sizes import (
    Workload,
    activation_bytes,
    buffer_sizes,
    dense_tensors,
    fc1_multiple,
    gradient_bytes,
    group_size,
    is_moe,
    qkv_width,
    refuse_what_is_left_out,
    scattered,
    stage_layers,
    tokens,
)

Row = dict[str, Any]


class Program:
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
        row |= {"hbm_bytes": None, "collective": None, "group_kind": None, "group_size": 0}
        row |= {"comm_bytes": 0, "wire_bytes": 0, "num_microbatches": self.times}
        self.rows.append(row | values)

    def light(self, *ops: str) -> None:
        """Memory-bound ops: no shape of a product, no message."""
        for op in ops:
            self.add(op, "elementwise")

    def gemm(self, op: str, m: int, n: int, k: int) -> None:
        """[m, k] times [k, n]: a multiplication and an addition per term."""
        self.add(op, "gemm", m=m, n=n, k=k, groups=1, flops=2 * m * n * k)

    def grouped(self, op: str, m: int, n: int, k: int) -> None:
        """One product per local expert; the rows of all experts together appear as m (or k)."""
        experts = self.w["num_experts"] // self.w["ep"]
        self.add(op, "grouped_gemm", m=m, n=n, k=k, groups=experts, flops=2 * m * n * k)

    def collect(self, op: str, collective: str, group_kind: str, comm_bytes: int) -> None:
        """A collective; alone in a group there is nothing to send."""
        size = group_size(self.w, group_kind)
        if size == 1:
            return
        # A sum that everyone needs travels twice: once to be summed, once to be spread.
        passes = 2 if collective == "all_reduce" else 1
        wire = passes * (size - 1) * comm_bytes // size
        self.message(op, "collective", collective, group_kind, comm_bytes, wire)

    def neighbour(self, op: str, collective: str, times: int) -> None:
        """A message from or to a neighbouring stage, as often as there is one."""
        w = self.w
        if w["pp"] == 1 or times == 0:
            return
        everyday, self.times = self.times, times
        size = activation_bytes(w) // w["tp"] if scattered(w) else activation_bytes(w)
        self.message(op, "p2p", collective, "pp", size, size if collective == "send" else 0)
        self.times = everyday

    def message(self, op: str, kind: str, collective: str, group: str, comm: int, wire: int) -> None:
        """A row that moves bytes between ranks."""
        words: Row = {"collective": collective, "group_kind": group, "group_size": group_size(self.w, group)}
        self.add(op, kind, **words, comm_bytes=comm, wire_bytes=wire)

    def core_attention(self, op: str, *, backward: bool = False) -> None:
        """Scores and their product with the values, per sequence of the micro-batch.

        Each product is 2 b s^2 h/t flops: forward two, backward four. Flash attention skips the masked half
        of all of them and, keeping no scores, computes them once more in the backward.
        """
        w = self.w
        s, b, h, t = w["seq_length"], w["micro_batch_size"], w["hidden_size"], w["tp"]
        products = 4 if backward else 2
        flops = products * 2 * b * s * s * h // t
        if w["flash_attention"]:
            products = 5 if backward else 2
            flops = products * b * s * s * h // t
        self.add(op, "attention", m=s, n=s, k=h // t, groups=b, flops=flops)

    # One layer, forward

    def attention_forward(self) -> None:
        """Column-parallel qkv, core attention, row-parallel output."""
        w, whole = self.w, activation_bytes(self.w)
        h, t = w["hidden_size"], w["tp"]
        self.light("attention_norm")
        if scattered(w):
            self.collect("attention_gather", "all_gather", "tp", whole)
        self.gemm("qkv", tokens(w), qkv_width(w), h)
        self.core_attention("core_attention")
        self.gemm("attention_output", tokens(w), h, h // t)
        if scattered(w):
            self.collect("attention_scatter", "reduce_scatter", "tp", whole)
        else:
            self.collect("attention_reduce", "all_reduce", "tp", whole)
        self.light("attention_residual")

    def dense_mlp_forward(self) -> None:
        """Column-parallel fc1, row-parallel fc2."""
        w, whole = self.w, activation_bytes(self.w)
        h, f = w["hidden_size"], w["ffn_hidden_size"] // w["tp"]
        self.light("mlp_norm")
        if scattered(w):
            self.collect("mlp_gather", "all_gather", "tp", whole)
        self.gemm("fc1", tokens(w), fc1_multiple(w) * f, h)
        self.light("activation")
        self.gemm("fc2", tokens(w), h, f)
        if scattered(w):
            self.collect("mlp_scatter", "reduce_scatter", "tp", whole)
        else:
            self.collect("mlp_reduce", "all_reduce", "tp", whole)
        self.light("mlp_residual")

    def expert_sizes(self) -> tuple[int, int, int, int]:
        """Rows in the local experts, their width, bytes of the all_to_all, bytes of the gather over etp."""
        w = self.w
        sent_rows = w["moe_router_topk"] * tokens(w) // w["tp"]  # a rank routes its own slice of the tokens
        gathered_rows = w["moe_router_topk"] * tokens(w) * w["etp"] // w["tp"]
        row_bytes = 2 * w["hidden_size"]
        return (
            gathered_rows,
            w["moe_ffn_hidden_size"] // w["etp"],
            sent_rows * row_bytes,
            gathered_rows * row_bytes,
        )

    def moe_mlp_forward(self) -> None:
        """Route, exchange over ep, gather over etp, compute, and all the way back."""
        w, h, experts = self.w, self.w["hidden_size"], self.w["num_experts"]
        rows, f, sent, gathered = self.expert_sizes()
        several = experts // w["ep"] > 1
        self.light("mlp_norm")
        self.gemm("router", tokens(w) // w["tp"], experts, h)
        self.light("router_topk")
        # Every rank of the etp x ep block contributes an int64 per expert.
        self.collect("token_counts", "all_gather", "tp_ep", 8 * experts * w["ep"] * w["etp"])
        self.light("permute")
        self.collect("moe_dispatch", "all_to_all", "ep", sent)
        self.collect("expert_gather", "all_gather", "etp", gathered)
        if several:
            self.light("expert_sort")
        self.grouped("expert_fc1", rows, fc1_multiple(w) * f, h)
        self.light("expert_activation")
        self.grouped("expert_fc2", rows, h, f)
        if several:
            self.light("expert_unsort")
        self.collect("expert_scatter", "reduce_scatter", "etp", gathered)
        self.collect("moe_combine", "all_to_all", "ep", sent)
        self.light("unpermute", "mlp_residual")

    def layer_forward(self, layer: int) -> None:
        """Attention, then the MLP."""
        self.layer = layer
        self.attention_forward()
        if is_moe(self.w):
            self.moe_mlp_forward()
        else:
            self.dense_mlp_forward()
        self.layer = -1

    # One layer, backward

    def column_parallel_backward(self, name: str, base: str, m: int, n: int, k: int) -> None:
        """Gather the saved slice of the input, input gradient, sum it over tp, weight gradient."""
        w, whole = self.w, activation_bytes(self.w)
        if scattered(w):
            self.collect(f"{base}_regather", "all_gather", "tp", whole)
        self.gemm(f"{name}_dgrad", m, k, n)
        if scattered(w):
            self.collect(f"{base}_gather", "reduce_scatter", "tp", whole)
        else:
            self.collect(f"{base}_reduce_grad", "all_reduce", "tp", whole)
        self.gemm(f"{name}_wgrad", n, k, m)

    def row_parallel_backward(self, name: str, base: str, m: int, n: int, k: int) -> None:
        """Gather the output gradient, then both products."""
        if scattered(self.w):
            self.collect(f"{base}_scatter", "all_gather", "tp", activation_bytes(self.w))
        self.gemm(f"{name}_dgrad", m, k, n)
        self.gemm(f"{name}_wgrad", n, k, m)

    def attention_backward(self) -> None:
        """The reverse of attention_forward."""
        w, h = self.w, self.w["hidden_size"]
        self.light("attention_residual")
        self.row_parallel_backward("attention_output", "attention", tokens(w), h, h // w["tp"])
        if w["recompute"] == "selective":
            self.core_attention("recompute_core_attention")
        self.core_attention("core_attention", backward=True)
        self.column_parallel_backward("qkv", "attention", tokens(w), qkv_width(w), h)
        self.light("attention_norm")

    def dense_mlp_backward(self) -> None:
        """The reverse of dense_mlp_forward."""
        w, h, f = self.w, self.w["hidden_size"], self.w["ffn_hidden_size"] // self.w["tp"]
        self.light("mlp_residual")
        self.row_parallel_backward("fc2", "mlp", tokens(w), h, f)
        self.light("activation")
        self.column_parallel_backward("fc1", "mlp", tokens(w), fc1_multiple(w) * f, h)
        self.light("mlp_norm")

    def moe_mlp_backward(self) -> None:
        """The reverse of moe_mlp_forward; permuted tokens were kept, so nothing is gathered again."""
        w, h, experts = self.w, self.w["hidden_size"], self.w["num_experts"]
        rows, f, sent, gathered = self.expert_sizes()
        wide, several = fc1_multiple(w) * f, experts // w["ep"] > 1
        self.light("mlp_residual", "unpermute")
        self.collect("moe_combine", "all_to_all", "ep", sent)
        self.collect("expert_scatter", "all_gather", "etp", gathered)
        if several:
            self.light("expert_unsort")
        self.grouped("expert_fc2_dgrad", rows, f, h)
        self.grouped("expert_fc2_wgrad", h, f, rows)
        self.light("expert_activation")
        self.grouped("expert_fc1_dgrad", rows, h, wide)
        self.grouped("expert_fc1_wgrad", wide, h, rows)
        if several:
            self.light("expert_sort")
        self.collect("expert_gather", "reduce_scatter", "etp", gathered)
        self.collect("moe_dispatch", "all_to_all", "ep", sent)
        self.light("permute", "router_topk")
        self.gemm("router_dgrad", tokens(w) // w["tp"], h, experts)
        self.gemm("router_wgrad", experts, h, tokens(w) // w["tp"])
        self.light("mlp_norm")

    def layer_backward(self, layer: int) -> None:
        """The MLP, then attention; with full recomputation after the layer's forward once more."""
        if self.w["recompute"] == "full":
            self.prefix = "recompute_"
            self.layer_forward(layer)
            self.prefix = ""
        self.layer = layer
        if is_moe(self.w):
            self.moe_mlp_backward()
        else:
            self.dense_mlp_backward()
        self.attention_backward()
        self.layer = -1

    # Ends of the pipeline

    def embedding_forward(self) -> None:
        """Each tp rank looks up its part of the vocabulary; the parts are summed."""
        w = self.w
        self.light("embedding_lookup")
        # Positions are added to whole sequences, so learned ones forbid summing and cutting in one step.
        cut_while_summing = scattered(w) and w["position_embedding"] != "learned"
        how = "reduce_scatter" if cut_while_summing else "all_reduce"
        self.collect("embedding_reduce", how, "tp", activation_bytes(w))
        self.light("embedding_dropout")

    def embedding_backward(self) -> None:
        """Gather the cut gradient, add it to the rows of the table."""
        self.light("embedding_dropout")
        if scattered(self.w):
            self.collect("embedding_gather", "all_gather", "tp", activation_bytes(self.w))
        self.light("embedding_lookup")

    def head_forward(self) -> None:
        """Logits over a slice of the vocabulary; max, target and sum of the softmax cross the slices."""
        w = self.w
        self.light("final_norm")
        if scattered(w):
            self.collect("head_gather", "all_gather", "tp", activation_bytes(w))
        self.gemm("logits", tokens(w), w["padded_vocab_size"] // w["tp"], w["hidden_size"])
        for part in ("max", "target", "sum"):
            self.collect(f"cross_entropy_{part}", "all_reduce", "tp", 4 * tokens(w))
        self.light("cross_entropy")

    def head_backward(self) -> None:
        """A column-parallel linear like any other."""
        w = self.w
        self.light("cross_entropy")
        width = w["padded_vocab_size"] // w["tp"]
        self.column_parallel_backward("logits", "head", tokens(w), width, w["hidden_size"])
        self.light("final_norm")

    # Phases

    def message_counts(self) -> tuple[int, int]:
        """How often the side towards the first layer and the side towards the last layer is crossed.

        The ring of chunks has no neighbour before its very first and after its very last chunk.
        """
        w = self.w
        chunks = w["virtual_pipeline"]
        before = chunks - (self.stage == 0)
        after = chunks - (self.stage == w["pp"] - 1)
        return w["num_microbatches"] * before, w["num_microbatches"] * after

    def forward(self) -> None:
        """All rows of a micro-batch's forward through this stage."""
        before, after = self.message_counts()
        self.neighbour("recv_forward", "recv", before)
        if self.stage == 0:
            self.embedding_forward()
        for layer in stage_layers(self.w, self.stage):
            self.layer_forward(layer)
        if self.stage == self.w["pp"] - 1:
            self.head_forward()
        self.neighbour("send_forward", "send", after)

    def backward(self) -> None:
        """All rows of a micro-batch's backward through this stage."""
        self.phase = "backward"
        before, after = self.message_counts()
        self.neighbour("recv_backward", "recv", after)
        if self.stage == self.w["pp"] - 1:
            self.head_backward()
        for layer in reversed(stage_layers(self.w, self.stage)):
            self.layer_backward(layer)
        if self.stage == 0:
            self.embedding_backward()
        self.neighbour("send_backward", "send", before)

    def optimizer(self) -> None:
        """Sum gradients, update, spread parameters."""
        w = self.w
        self.phase, self.times = "optimizer", 1
        dense, expert = buffer_sizes(w, self.stage)
        buffers = [("dense", "dp", dense), ("expert", "edp", expert)] if expert else [("dense", "dp", dense)]
        shared = w["distributed_optimizer"]
        for name, kind, size in buffers:
            # DeepSpeed's ZeRO stage 1 shards the state alone.
            scattering = shared and w["framework"] != "megatron-deepspeed"
            how = "reduce_scatter" if scattering else "all_reduce"
            self.collect(f"grad_reduce_{name}", how, kind, gradient_bytes(w) * size)
        if scattered(w):
            # One buffer for all tensors.
            partial = sum(x.size() for x in dense_tensors(w, self.stage) if x.sees_own_tokens)
            self.collect("norm_grad_reduce", "all_reduce", "tp", gradient_bytes(w) * partial)
        if w["tied_embeddings"] and w["pp"] > 1 and self.stage in (0, w["pp"] - 1):
            table = w["padded_vocab_size"] // w["tp"] * w["hidden_size"]
            self.collect("embedding_grad_reduce", "all_reduce", "embedding", gradient_bytes(w) * table)
        if shared:
            self.collect("grad_norm", "all_reduce", "world", 4)
        else:
            # Everyone has whole gradients, so those who hold one copy of the parameters sum their squares.
            self.collect("grad_norm_dense", "all_reduce", "model", 4)
            if expert:
                self.collect("grad_norm_expert", "all_reduce", "expert_model", 4)
        owned = sum(-(-size // w[kind]) if shared else size for _, kind, size in buffers)
        self.add("adam", "optimizer", m=dense + expert, n=owned)
        if shared:
            for name, kind, size in buffers:
                self.collect(f"param_gather_{name}", "all_gather", kind, 2 * size)


def naive_program(w: Workload, stage: int) -> list[Row]:
    """The rows every rank of a stage runs, without rank and group_id."""
    refuse_what_is_left_out(w)
    program = Program(w, stage)
    program.forward()
    program.backward()
    program.optimizer()
    return program.rows


def naive_ops(workload: Workload) -> list[Row]:
    """Every row of every rank, rank-major, in program order."""
    groups = naive_groups(workload)
    places = {
        (kind, rank): (index, len(members))
        for kind, lists in groups.items()
        for index, members in enumerate(lists)
        for rank in members
    }
    programs = [naive_program(workload, stage) for stage in range(workload["pp"])]
    rows: list[Row] = []
    for rank, place in enumerate(coordinates(workload)):
        for row in programs[place["pp"]]:
            group_id, size = places[row["group_kind"], rank] if row["group_kind"] else (0, 0)
            assert size == row["group_size"], "a group's members must number what its degree says"
            rows.append({"rank": rank, **row, "group_id": group_id})
    return rows
