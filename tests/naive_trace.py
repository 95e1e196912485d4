"""A second opinion on the trace: every row of every rank, from plain loops.

Written from the description of a Megatron-Core iteration alone and sharing no code with the library, so that
agreement of the two means something. Made to be read, not to be fast: use it on small workloads. Rows are
written down in naive_rows.py, layers are in naive_layers.py; here are experts, ends of the pipeline and the
optimizer.
"""

from __future__ import annotations

from naive_dispatch import Dispatchers
from naive_fp8 import (
    gathered_sizes,
    in_fp8,
    quantised_sizes,
    remembers_the_past,
    weight_quantising,
)
from naive_layout import coordinates, naive_groups
from naive_model import (
    buffer_sizes,
    counted_over,
    has_loss_here,
    layers,
    predicting_stage,
    repeated_layers,
    stage_layers,
    summed_over_tp,
)
from naive_rows import Row
from naive_sharding import gathered_later, sharded, shared_out
from naive_sizes import (
    Workload,
    activation_bytes,
    check_what_is_assumed,
    fc1_multiple,
    gradient_bytes,
    group_size,
    own_tokens,
    router_width,
    scattered,
    table,
    tokens,
    updated_by_host,
)


class Program(Dispatchers):
    """All rows of one pipeline stage."""

    def router(self) -> None:
        """Logits of 16 bits, or of fp32 from the same operands, or of fp64 from operands made so before."""
        w = self.w
        m, n, k = own_tokens(w), w["num_experts"], w["hidden_size"]
        self.gemm("router", m, n, k)
        self.rows[-1]["hbm_bytes"] += (router_width(w) - 2) * m * n
        if router_width(w) == 8:
            self.rows[-1]["hbm_bytes"] += (8 - 2 + 2 + 8) * (m * k + k * n)

    def router_backward(self) -> None:
        """Both gradients, of operands as wide as the logits."""
        w = self.w
        m, n, k, more = own_tokens(w), w["num_experts"], w["hidden_size"], router_width(w) - 2
        of_input, of_weight = self.gradients("router", m, n, k)
        of_input["hbm_bytes"] += more * (m * n + n * k + m * k)
        of_weight["hbm_bytes"] += more * (m * n + m * k)
        if router_width(w) == 8:
            # Weight and input are made wide, and their gradients narrow again.
            of_input["hbm_bytes"] += (2 + 8) * n * k + (8 + 2) * m * k
            of_weight["hbm_bytes"] += (2 + 8) * m * k + (8 + 2) * n * k

    def shared_forward(self) -> None:
        """Experts that every token passes, and a gate that weighs their output."""
        w, h = self.w, self.w["hidden_size"]
        if not w["num_shared_experts"]:
            return
        self.mlp_forward("shared", w["num_shared_experts"] * w["moe_ffn_hidden_size"])
        if w["moe_shared_expert_gate"]:
            self.gemm("shared_gate", own_tokens(w), 1, h)
            self.light("shared_gating", own_tokens(w) * h, reads=(2,), writes=(2,))

    def shared_backward(self) -> None:
        """The reverse of shared_forward; the gate's gradient sums a product of two tensors."""
        w, h = self.w, self.w["hidden_size"]
        if not w["num_shared_experts"]:
            return
        if w["moe_shared_expert_gate"]:
            self.light("shared_gating", own_tokens(w) * h, reads=(2, 2, 2, 2), writes=(2, 2))
            self.gradients("shared_gate", own_tokens(w), 1, h)
        self.mlp_backward("shared", w["num_shared_experts"] * w["moe_ffn_hidden_size"])

    def moe_mlp_forward(self) -> None:
        """Norm, the module of experts, residual."""
        self.norm("mlp_norm", own_tokens(self.w), self.w["hidden_size"])
        self.experts_forward()
        self.residual("mlp_residual")

    def experts_forward(self) -> None:
        """Shared experts; route, exchange over ep, gather over etp, compute, and all the way back."""
        w, h, experts = self.w, self.w["hidden_size"], self.w["num_experts"]
        rows, f, _, _ = self.expert_sizes()
        local = experts // w["ep"]
        self.shared_forward()
        self.router()
        # Softmax and top-k over fp32: read, write, read.
        reads, writes = (4, 4), (4,)
        if router_width(w) == 8:
            # Scores are of fp32 all the same: logits are cast, and probabilities come as wide as they were.
            reads, writes = (8, 4, 4), (4, 8)
        if w["moe_router_num_groups"] and not w["moe_router_fusion"]:
            # The best of each group; a mask of the chosen groups; scores without the others.
            reads, writes = (*reads, 4, 4, 4), (*writes, 4, 4)
        self.light("router_topk", own_tokens(w) * experts, reads=reads, writes=writes)
        self.balancing_loss()
        self.expert_bias()
        self.to_experts()
        self.gemm("expert_fc1", rows, fc1_multiple(w) * f, h, local, "grouped_gemm")
        self.activation("expert_activation", rows, f, backward=False, weighted=True)
        self.gemm("expert_fc2", rows, h, f, local, "grouped_gemm")
        self.from_experts()
        if w["num_shared_experts"]:
            self.light("shared_sum", own_tokens(w) * h, reads=(2, 2), writes=(2,))

    def balancing_loss(self) -> None:
        """Scores of all experts, a map of the chosen ones; both summed, the map over all who share tokens."""
        w = self.w
        if not has_loss_here(w, self.stage, self.layer, self.phase):
            return
        # Softmax, top-k, the map of whole numbers made one of truths, the two sums.
        reads, writes = (4, 4, 4, 1, 4), (4, 4, 1)
        if router_width(w) == 8:
            reads, writes = (8, *reads), (4, *writes)
        if w["moe_router_fusion"]:
            # A kernel of logits gives scores, softmax for later and map; one of both gives the loss.
            reads, writes = (4, 1, 4), (4, 4, 1)
        self.light("balancing_loss", own_tokens(w) * w["num_experts"], reads=reads, writes=writes)
        if (counted := counted_over(w))[0]:
            self.collect("balancing_loss_reduce", "all_reduce", *counted)

    def expert_bias(self) -> None:
        """Scores with a bias, unless a kernel adds it on the way; a sum of the map of chosen experts."""
        w = self.w
        if w["moe_router_enable_expert_bias"]:
            added = (
                {"reads": (1,), "writes": ()} if w["moe_router_fusion"] else {"reads": (4, 1), "writes": (4,)}
            )
            self.light("expert_bias", own_tokens(w) * w["num_experts"], **added)

    def moe_mlp_backward(self) -> None:
        """The reverse of moe_mlp_forward; permuted tokens were kept, so nothing is gathered again."""
        w, h, experts = self.w, self.w["hidden_size"], self.w["num_experts"]
        rows, f, _, _ = self.expert_sizes()
        wide, local = fc1_multiple(w) * f, experts // w["ep"]
        self.residual_backward("mlp_residual")
        self.again("layernorm", lambda: self.norm("mlp_norm", own_tokens(w), h))
        self.again("moe", self.experts_forward)
        self.from_experts_backward()
        self.again(
            "moe_act",
            lambda: self.activation("expert_activation", rows, f, backward=False, weighted=True),
        )
        self.gradients("expert_fc2", rows, h, f, local, "grouped_gemm")
        self.activation("expert_activation", rows, f, backward=True, weighted=True)
        self.gradients("expert_fc1", rows, wide, h, local, "grouped_gemm")
        self.to_experts_backward()
        wide = router_width(w) == 8
        # Of fp64 the gradient comes wide, and goes on so after what happens in fp32.
        reads, writes = ((8, 4, 4), (4, 8)) if wide else ((4, 4), (4,))
        self.light("router_topk", own_tokens(w) * experts, reads=reads, writes=writes)
        if w["moe_router_load_balancing_type"] != "none":
            # Experts' gradients spread out, softmax, the sum with what comes from the experts.
            reads, writes = (4, 4, 4, 4), (4, 4, 4)
            if wide:
                reads, writes = (4, 4, 4, 8, 8), (4, 4, 8, 8)
            self.light("balancing_loss", own_tokens(w) * experts, reads=reads, writes=writes)
        self.router_backward()
        self.again("shared_experts", self.shared_forward)
        self.shared_backward()
        self.norm_backward("mlp_norm", own_tokens(w), h, residual=True)

    # Ends of the pipeline

    def dropout(self, op: str, *, backward: bool) -> None:
        """Read x, write y and a mask; backward reads dy and the mask."""
        if self.w["hidden_dropout"] > 0:
            ends = {"reads": (2, 1), "writes": (2,)} if backward else {"reads": (2,), "writes": (2, 1)}
            self.light(op, own_tokens(self.w) * self.w["hidden_size"], **ends)

    def look_up(self, base: str) -> None:
        """Each tp rank looks up its part of the vocabulary; the parts are summed."""
        w = self.w
        self.light(f"{base}_lookup", tokens(w) * w["hidden_size"], reads=(2,), writes=(2,))
        # Positions are added to whole sequences, so learned ones forbid summing and cutting in one step.
        cut_while_summing = scattered(w) and w["position_embedding"] != "learned"
        how = "reduce_scatter" if cut_while_summing else "all_reduce"
        self.collect(f"{base}_reduce", how, "tp", activation_bytes(w))
        self.dropout(f"{base}_dropout", backward=False)

    def look_up_backward(self, base: str) -> None:
        """Gather the cut gradient, add it to the rows of the table, and that to the main gradient."""
        w = self.w
        self.dropout(f"{base}_dropout", backward=True)
        if scattered(w):
            self.collect(f"{base}_gather", "all_gather", "tp", activation_bytes(w))
        self.light(f"{base}_lookup", tokens(w) * w["hidden_size"], reads=(2, 2), writes=(2,))
        main = gradient_bytes(w)
        self.rows[-1]["hbm_bytes"] += table(w).size() * (2 + main + main)

    def head_forward(self, prefix: str) -> None:
        """Logits over a slice of the vocabulary; max, target and sum of the softmax cross the slices."""
        w = self.w
        width = w["padded_vocab_size"] // w["tp"]
        self.column_parallel(f"{prefix}logits", f"{prefix}head", tokens(w), width, w["hidden_size"])
        loss, each = f"{prefix}cross_entropy", 4 * tokens(w)
        how = w["cross_entropy_fusion_impl"] if w["cross_entropy_loss_fusion"] else "single"
        if how == "te":
            # Three numbers a token from every rank. Two passes read 16 bits, the second writes a gradient.
            self.collect(f"{loss}_gather", "all_gather", "tp", 3 * each * w["tp"])
            self.light(loss, tokens(w) * width, reads=(2, 2), writes=(4,))
        elif how == "native":
            self.collect(f"{loss}_max", "all_reduce", "tp", each)
            self.collect(f"{loss}_sum", "all_reduce", "tp", 2 * each)
            # The cast with its maximum, the exponential with its sum, the division.
            self.light(loss, tokens(w) * width, reads=(2, 4, 4), writes=(4, 4, 4))
        else:
            for part in ("max", "target", "sum"):
                self.collect(f"{loss}_{part}", "all_reduce", "tp", each)
            # fp32 logits: the cast writes, max and sum read, subtract, exp and divide read and write.
            self.light(loss, tokens(w) * width, reads=(4, 4, 4, 4, 4), writes=(4, 4, 4, 4))

    def head_backward(self, prefix: str) -> None:
        """The softmax less one at the target is scaled and cast; a column-parallel linear like any other."""
        w = self.w
        width = w["padded_vocab_size"] // w["tp"]
        fused = w["cross_entropy_loss_fusion"]
        reads, writes = ((4,), (2,)) if fused else ((4, 4), (4, 4))
        self.light(f"{prefix}cross_entropy", tokens(w) * width, reads=reads, writes=writes)
        self.column_parallel_backward(f"{prefix}logits", f"{prefix}head", tokens(w), width, w["hidden_size"])

    # Phases

    def message_counts(self) -> tuple[int, int]:
        """How often the side towards the first layer and the side towards the last layer is crossed.

        The ring of chunks has no neighbour before its very first and after its very last chunk. A prediction
        travels beside the hidden state from its stage to the loss, and its gradient back.
        """
        w, last, ahead = self.w, self.w["pp"] - 1, predicting_stage(self.w)
        chunks = w["virtual_pipeline"]
        before = chunks - (self.stage == 0) + (ahead < self.stage <= last)
        after = chunks - (self.stage == last) + (ahead <= self.stage < last)
        return w["num_microbatches"] * before, w["num_microbatches"] * after

    def forward(self) -> None:
        """All rows of a micro-batch's forward through this stage."""
        before, after = self.message_counts()
        last, held = self.stage == self.w["pp"] - 1, stage_layers(self.w, self.stage)
        self.neighbour("recv_forward", "recv", before)
        if self.stage == 0:
            self.look_up("embedding")
        for layer in held:
            if not layer.predicts:
                self.layer_forward(layer)
        if last:
            self.norm("final_norm", own_tokens(self.w), self.w["hidden_size"])
        for layer in held:
            if layer.predicts:
                self.layer_forward(layer)
        if last:
            if predicting_stage(self.w) < self.stage:
                self.head_forward("mtp_")
            self.head_forward("")
        self.neighbour("send_forward", "send", after)

    def backward(self) -> None:
        """All rows of a micro-batch's backward through this stage."""
        self.phase = "backward"
        before, after = self.message_counts()
        last, held = self.stage == self.w["pp"] - 1, stage_layers(self.w, self.stage)
        self.neighbour("recv_backward", "recv", after)
        if last:
            self.head_backward("")
            if predicting_stage(self.w) < self.stage:
                self.head_backward("mtp_")
        for layer in reversed(held):
            if layer.predicts:
                self.layer_backward(layer)
        if last:
            self.norm_backward("final_norm", own_tokens(self.w), self.w["hidden_size"])
            self.reduce_head()
        for together in reversed(repeated_layers(self.w, self.stage)):
            for layer in together:
                self.layer = layer.number
                self.bring(layer)
                self.layer = -1
            for layer in together:
                self.repeat(layer)
            for layer in reversed(together):
                self.layer_gradients(layer)
        if self.stage == 0:
            self.look_up_backward("embedding")
            self.reduce_embedding()
        self.neighbour("send_backward", "send", before)

    def optimizer(self) -> None:
        """Sum gradients, update, spread parameters."""
        w = self.w
        self.phase, self.times = "optimizer", 1
        dense, expert = buffer_sizes(w, self.stage)
        buffers = [("dense", "dp", dense), ("expert", "edp", expert)] if expert else [("dense", "dp", dense)]
        shared = w["distributed_optimizer"]
        for name, kind, size in [] if sharded(w, "grads") else buffers:
            # DeepSpeed's ZeRO stage 1 shards the state alone.
            scattering = shared and w["framework"] != "megatron-deepspeed"
            how = "reduce_scatter" if scattering else "all_reduce"
            self.collect(f"grad_reduce_{name}", how, kind, gradient_bytes(w) * size)
        if partial := summed_over_tp(w, self.stage, scattered(w)):
            # One buffer for all tensors.
            self.collect("norm_grad_reduce", "all_reduce", "tp", gradient_bytes(w) * shared_out(w, partial))
        if self.shares_table():
            size = gradient_bytes(w) * shared_out(w, table(w).size())
            self.collect("embedding_grad_reduce", "all_reduce", "embedding", size)
        if routed := w["moe_router_enable_expert_bias"] * sum(x.routed for x in stage_layers(w, self.stage)):
            self.collect("expert_bias_reduce", "all_reduce", "tp_cp_dp", 4 * w["num_experts"] * routed)
        if shared:
            self.collect("grad_norm", "all_reduce", "world", 4)
        else:
            # Everyone has whole gradients, so those who hold one copy of the parameters sum their squares.
            self.collect("grad_norm_dense", "all_reduce", "model", 4)
            if expert:
                self.collect("grad_norm_expert", "all_reduce", "expert_model", 4)
        owned = sum(-(-size // group_size(w, kind)) if shared else size for _, kind, size in buffers)
        away = updated_by_host(w, owned)
        owned -= away
        quantised = sum(quantised_sizes(w, self.stage))
        moved = owned * self.updated() + (quantised * weight_quantising(w) if quantised else 0)
        self.add("adam", "optimizer", m=dense + expert, n=owned, k=quantised, hbm_bytes=moved)
        if away:
            # A gradient is read in fp32, made so before where it is not, and a weight of 16 bits is written.
            self.add("host_adam", "optimizer", m=away, hbm_bytes=(6 + self.widened()) * away)
        if shared:
            later, shorter = gathered_later(w, self.stage), gathered_sizes(w, self.stage)
            for (name, kind, _), size, short in zip(buffers, later, shorter, strict=False):
                if size:
                    self.collect(f"param_gather_{name}", "all_gather", kind, 2 * size - short)

    def updated(self) -> int:
        """Bytes that Adam moves for one parameter."""
        w = self.w
        moments = [{"fp32": 4, "bf16": 2}[w[key]] for key in ("exp_avg_dtype", "exp_avg_sq_dtype")]
        halves = w["use_precision_aware_optimizer"] and (not in_fp8(w) or remembers_the_past(w))
        if w["optimizer_cpu_offload"]:
            # Plain fp32, whose weight is read once more to make 16 bits of it.
            return self.widened() + 4 + 2 * (4 + 4 + 4) + 4 + 2
        if not halves:
            # fp32: gradient, weight and moments are read, all but the first written, and a weight of 2 bytes.
            return 4 + 4 + 4 + 2 * sum(moments) + 2
        # A weight in two halves and two moments are read and written, a gradient is read.
        return gradient_bytes(w) + 2 * sum([2, 2, *moments])

    def widened(self) -> int:
        """Bytes moved to make fp32 of a gradient, where it is not."""
        return 2 + 4 if gradient_bytes(self.w) == 2 else 0

    def shares_table(self) -> bool:
        """Whether another stage holds a copy of this stage's table, for the head or for MTP."""
        w = self.w
        if w["pp"] == 1 or self.stage not in (0, predicting_stage(w)):
            return False
        return bool(w["tied_embeddings"] or any(layer.predicts for layer in layers(w)))


def naive_program(w: Workload, stage: int) -> list[Row]:
    """The rows every rank of a stage runs, without rank and group_id."""
    check_what_is_assumed(w)
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
