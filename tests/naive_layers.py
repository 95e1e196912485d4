"""The naive trace's layers: attention, MLP, experts, multi-token prediction, forward and backward."""

from __future__ import annotations

from naive_context import SharedSequences
from naive_model import Layer, is_repeated, window
from naive_offload import copied
from naive_sharding import Sharded
from naive_sizes import (
    activation_bytes,
    context_size,
    fc1_multiple,
    head_widths,
    is_mla,
    own_key_value_sizes,
    own_tokens,
    qkv_width,
    query_size,
    scattered,
    steps_of_cp,
    tokens,
    whole_groups,
)


class Attention(SharedSequences):
    """The attention of a layer."""

    def core_attention(self, op: str, windowed: bool, *, backward: bool = False) -> None:
        """Scores and their product with the values, per sequence of the micro-batch.

        Each product is 2 b s^2 a d/t flops: forward two, backward four. Flash attention leaves out what a
        causal mask hides, or what lies outside a window, and, keeping no scores, computes them once more in
        the backward; it pads values to the width of queries.
        """
        w, (query, value) = self.w, head_widths(self.w)
        s, b, t, a = w["seq_length"], w["micro_batch_size"], w["tp"], w["num_attention_heads"]
        flash = w["flash_attention"]
        keys = window(w) if windowed else s
        together = steps_of_cp(w)[0]
        rows, own_heads = s // w["cp"] * together, a // together
        width = own_heads * (query + (query if flash else value)) // 2 // t
        # Halves of pairs: a mask hides every other pair, a window leaves so many keys to each query.
        halves = s * (min(2 * keys, s) if flash else 2 * s)
        if w["cp"] > together:
            halves = self.own_halves()
        products = (5 if flash else 4) if backward else 2
        flops = products * b * halves * width
        moved = self.moved_backward() if backward else self.moved_forward()
        if not flash:
            dropout = (2 + 2 + 1) if w["attention_dropout"] > 0 else 0
            softmax = 2 + 2 + 2 if backward else 2 + 2
            moved += (softmax + dropout) * (b * a * s * s // t)
        self.add(op, "attention", m=rows, n=keys, k=width, groups=b, flops=flops, hbm_bytes=moved)

    def residual(self, op: str) -> None:
        """Read x and the residual, write their sum, and dropout's mask."""
        mask = (1,) if self.w["hidden_dropout"] > 0 else ()
        self.light(op, own_tokens(self.w) * self.w["hidden_size"], reads=(2, 2), writes=(2, *mask))

    def residual_backward(self, op: str) -> None:
        """Dropout's: read dy and the mask, write dx."""
        if self.w["hidden_dropout"] > 0:
            self.light(op, own_tokens(self.w) * self.w["hidden_size"], reads=(2, 1), writes=(2,))

    def head_norms(self, *, backward: bool) -> None:
        """Norms of queries and keys: of each head, or of all, which are then gathered and cut again."""
        w = self.w
        if is_mla(w) or not w["qk_layernorm"]:
            return
        for op, own, every in (
            ("q_norm", query_size(w) // w["tp"], query_size(w)),
            ("k_norm", own_key_value_sizes(w)[0], w["num_query_groups"] * w["head_dim"]),
        ):
            across = w["qk_layernorm_across_heads"]
            if across:
                self.collect(f"{op}_gather", "all_gather", "tp", 2 * tokens(w) * every)
            one = self.norm_backward if backward else self.norm
            one(op, tokens(w), every if across else own)

    def latent_norm(self, op: str, width: int, *, backward: bool) -> None:
        """The norm of a latent, on a rank's own tokens."""
        if self.w["qk_layernorm"]:
            (self.norm_backward if backward else self.norm)(op, own_tokens(self.w), width)

    def grouped_forward(self) -> None:
        """One fused linear; with more ranks than key heads, everyone gathers everything."""
        w = self.w
        self.column_parallel("qkv", "attention", tokens(w), qkv_width(w) // w["tp"], w["hidden_size"])
        if whole_groups(w):
            self.collect("qkv_gather", "all_gather", "tp", 2 * tokens(w) * qkv_width(w))
        self.head_norms(backward=False)

    def grouped_backward(self) -> None:
        """The reverse of grouped_forward."""
        w = self.w
        self.head_norms(backward=True)
        if whole_groups(w):
            self.collect("qkv_gather", "reduce_scatter", "tp", 2 * tokens(w) * qkv_width(w))
        self.column_parallel_backward(
            "qkv", "attention", tokens(w), qkv_width(w) // w["tp"], w["hidden_size"]
        )

    def latent_forward(self) -> None:
        """Compress on a rank's own tokens; gather the latents, not the input; make heads of them."""
        w, h, latent, key_latent = (
            self.w,
            self.w["hidden_size"],
            self.w["q_lora_rank"],
            self.w["kv_lora_rank"],
        )
        if latent:
            self.gemm("q_down", own_tokens(w), latent, h)
        self.gemm("kv_down", own_tokens(w), key_latent + w["qk_rope_head_dim"], h)
        if scattered(w):
            self.collect("rope_key_gather", "all_gather", "tp", 2 * tokens(w) * w["qk_rope_head_dim"])
        self.heads_of_latents()

    def heads_of_latents(self) -> None:
        """Queries, keys and values of a rank's heads: what Megatron may repeat as its up-projection."""
        w, h, latent = self.w, self.w["hidden_size"], self.w["q_lora_rank"]
        key_latent = w["kv_lora_rank"]
        if latent:
            self.latent_norm("q_latent_norm", latent, backward=False)
            self.column_parallel("q_up", "q_latent", tokens(w), query_size(w) // w["tp"], latent)
        else:
            self.column_parallel("q_proj", "q", tokens(w), query_size(w) // w["tp"], h)
        self.latent_norm("kv_latent_norm", key_latent, backward=False)
        self.column_parallel("kv_up", "kv_latent", tokens(w), self.up_width(), key_latent)

    def up_width(self) -> int:
        """What a rank makes of the key and value latent: unrotated keys and values of its heads."""
        w = self.w
        return int(w["num_attention_heads"] * (w["qk_nope_head_dim"] + w["v_head_dim"]) // w["tp"])

    def latent_backward(self) -> None:
        """The reverse of latent_forward."""
        w, h, latent, key_latent = (
            self.w,
            self.w["hidden_size"],
            self.w["q_lora_rank"],
            self.w["kv_lora_rank"],
        )
        self.column_parallel_backward("kv_up", "kv_latent", tokens(w), self.up_width(), key_latent)
        self.latent_norm("kv_latent_norm", key_latent, backward=True)
        if latent:
            self.column_parallel_backward("q_up", "q_latent", tokens(w), query_size(w) // w["tp"], latent)
            self.latent_norm("q_latent_norm", latent, backward=True)
        else:
            self.column_parallel_backward("q_proj", "q", tokens(w), query_size(w) // w["tp"], h)
        if scattered(w):
            self.collect("rope_key_gather", "reduce_scatter", "tp", 2 * tokens(w) * w["qk_rope_head_dim"])
        self.gradients("kv_down", own_tokens(w), key_latent + w["qk_rope_head_dim"], h)
        if latent:
            self.gradients("q_down", own_tokens(w), latent, h)

    def attention_forward(self, windowed: bool) -> None:
        """Norm, projections, core attention, row-parallel output, residual."""
        w = self.w
        self.norm("attention_norm", own_tokens(w), w["hidden_size"])
        if is_mla(w):
            self.latent_forward()
        else:
            self.grouped_forward()
        self.shared_core("", windowed)
        own = context_size(w) // w["tp"]
        self.row_parallel("attention_output", "attention", tokens(w), w["hidden_size"], own)
        self.residual("attention_residual")

    def attention_backward(self, windowed: bool) -> None:
        """The reverse of attention_forward."""
        w = self.w
        self.residual_backward("attention_residual")
        own = context_size(w) // w["tp"]
        if is_mla(w):
            self.again("layernorm", lambda: self.norm("attention_norm", own_tokens(w), w["hidden_size"]))
        self.row_parallel_backward("attention_output", "attention", tokens(w), w["hidden_size"], own)
        if is_mla(w):
            self.again("mla_up_proj", self.heads_of_latents)
        self.again("core_attn", lambda: self.shared_core("", windowed))
        self.shared_core_backward(windowed)
        if is_mla(w):
            self.latent_backward()
        else:
            self.grouped_backward()
        self.norm_backward("attention_norm", own_tokens(w), w["hidden_size"], residual=True)


class Feeding(Attention):
    """The MLP of a layer, dense or of experts."""

    def activation(self, op: str, rows: int, width: int, *, backward: bool, weighted: bool) -> None:
        """GELU or SwiGLU; experts' outputs are weighted by the router's probabilities."""
        elements = rows * width
        if self.w["gated_mlp"] and self.w["bias_activation_fusion"]:
            # One kernel reads both halves and writes one; its gradient reads three and writes two.
            self.light(
                op, elements, reads=(2, 2, 2) if backward else (2, 2), writes=(2, 2) if backward else (2,)
            )
            return
        # GELU, or the silu of one half: read and write; its gradient reads x and dy.
        self.light(op, elements, reads=(2, 2) if backward else (2,), writes=(2,))
        row = self.rows[-1]
        if self.w["gated_mlp"]:
            # The other half plus an offset; the product of both. Backward: both factors' gradients, each from
            # two tensors; the two halves are copied side by side.
            row["hbm_bytes"] += elements * (6 + 6 + 4 + 4 if backward else 4 + 6)
        if weighted:
            # Times a number a row. Backward: the same for the output; the numbers' own gradient multiplies
            # two tensors, writes that and reads it to sum it.
            row["hbm_bytes"] += elements * (4 + (2 + 2 + 2) + 2 if backward else 4)

    def mlp_forward(self, base: str, f: int) -> None:
        """Column-parallel fc1, row-parallel fc2."""
        w, own, name = self.w, f // self.w["tp"], "" if base == "mlp" else f"{base}_"
        self.column_parallel(f"{name}fc1", base, tokens(w), fc1_multiple(w) * own, w["hidden_size"])
        self.activation(f"{name}activation", tokens(w), own, backward=False, weighted=False)
        self.row_parallel(f"{name}fc2", base, tokens(w), w["hidden_size"], own)

    def mlp_backward(self, base: str, f: int) -> None:
        """The reverse of mlp_forward."""
        w, own, name = self.w, f // self.w["tp"], "" if base == "mlp" else f"{base}_"
        self.row_parallel_backward(f"{name}fc2", base, tokens(w), w["hidden_size"], own)
        self.activation(f"{name}activation", tokens(w), own, backward=True, weighted=False)
        self.column_parallel_backward(f"{name}fc1", base, tokens(w), fc1_multiple(w) * own, w["hidden_size"])

    def normed_mlp(self) -> None:
        """One module: the first linear norms its input itself."""
        self.norm("mlp_norm", own_tokens(self.w), self.w["hidden_size"])
        self.mlp_forward("mlp", self.w["ffn_hidden_size"])

    def dense_mlp_forward(self) -> None:
        """Norm, MLP, residual."""
        self.normed_mlp()
        self.residual("mlp_residual")

    def dense_mlp_backward(self) -> None:
        """The reverse of dense_mlp_forward."""
        self.residual_backward("mlp_residual")
        self.again("mlp", self.normed_mlp)
        self.mlp_backward("mlp", self.w["ffn_hidden_size"])
        self.norm_backward("mlp_norm", own_tokens(self.w), self.w["hidden_size"], residual=True)


class Layers(Feeding, Sharded):
    """Whole layers of every kind."""

    def head_forward(self, prefix: str) -> None:
        """The head comes with the ends of the pipeline."""
        raise NotImplementedError

    def head_backward(self, prefix: str) -> None:
        """The head comes with the ends of the pipeline."""
        raise NotImplementedError

    def moe_mlp_forward(self) -> None:
        """Experts have a file of their own."""
        raise NotImplementedError

    def moe_mlp_backward(self) -> None:
        """Experts have a file of their own."""
        raise NotImplementedError

    def look_up(self, base: str) -> None:
        """The embedding comes with the ends of the pipeline."""
        raise NotImplementedError

    def look_up_backward(self, base: str) -> None:
        """The embedding comes with the ends of the pipeline."""
        raise NotImplementedError

    def prediction_forward(self) -> None:
        """Embedding and hidden state, normed, side by side, projected; every rank gathers all columns."""
        w, h = self.w, self.w["hidden_size"]
        self.norm("mtp_embedding_norm", own_tokens(w), h)
        self.norm("mtp_hidden_norm", own_tokens(w), h)
        self.light("mtp_concatenation", 2 * own_tokens(w) * h, reads=(2,), writes=(2,))
        self.column_parallel("mtp_projection", "mtp", tokens(w), h // w["tp"], 2 * h)
        self.collect("mtp_output_gather", "all_gather", "tp", activation_bytes(w))

    def prediction_backward(self) -> None:
        """The reverse; where sequences are cut, gradients of all tokens are gathered first."""
        w, h = self.w, self.w["hidden_size"]
        if scattered(w):
            self.collect("mtp_output_gather", "all_gather", "tp", activation_bytes(w))
        self.column_parallel_backward("mtp_projection", "mtp", tokens(w), h // w["tp"], 2 * h)
        self.light("mtp_concatenation", 2 * own_tokens(w) * h, reads=(2,), writes=(2,))
        self.norm_backward("mtp_hidden_norm", own_tokens(w), h, residual=True)
        self.norm_backward("mtp_embedding_norm", own_tokens(w), h)

    def inner_forward(self, layer: Layer) -> None:
        """What full recomputation repeats."""
        if layer.predicts:
            self.prediction_forward()
        self.attention_forward(layer.windowed)
        if layer.routed:
            self.moe_mlp_forward()
        else:
            self.dense_mlp_forward()

    def layer_forward(self, layer: Layer) -> None:
        """Attention, then the MLP; of multi-token prediction with a lookup before and a head behind."""
        self.layer = layer.number
        self.gather(layer)
        if layer.predicts:
            self.look_up("mtp_embedding")
        self.inner_forward(layer)
        if layer.predicts:
            self.norm("mtp_final_norm", own_tokens(self.w), self.w["hidden_size"])
            if self.stage == self.w["pp"] - 1:
                self.head_forward("mtp_")
        self.copy("activation_offload", layer)
        self.layer = -1

    def bring(self, layer: Layer) -> None:
        """What a backward pass needs that is elsewhere."""
        self.gather(layer)
        self.copy("activation_reload", layer)

    def copy(self, op: str, layer: Layer) -> None:
        """A layer's activations go to the host, or come back."""
        moved = copied(self.w, layer, self.expert_sizes()[0] if layer.routed else 0)
        if moved:
            self.add(op, "elementwise", hbm_bytes=moved)

    def layer_backward(self, layer: Layer) -> None:
        """Of multi-token prediction: head, the layer's forward once more where it is asked for, gradients."""
        self.layer = layer.number
        self.bring(layer)
        if self.stage == self.w["pp"] - 1:
            self.head_backward("mtp_")
        self.norm_backward("mtp_final_norm", own_tokens(self.w), self.w["hidden_size"])
        self.repeat(layer)
        self.layer_gradients(layer)

    def repeat(self, layer: Layer) -> None:
        """With full recomputation the layer's forward once more."""
        if is_repeated(self.w, self.stage, layer):
            self.layer, self.prefix = layer.number, "recompute_"
            self.inner_forward(layer)
            self.layer, self.prefix = -1, ""

    def layer_gradients(self, layer: Layer) -> None:
        """The MLP, then attention."""
        self.layer = layer.number
        if layer.routed:
            self.moe_mlp_backward()
        else:
            self.dense_mlp_backward()
        self.attention_backward(layer.windowed)
        if layer.predicts:
            self.prediction_backward()
            self.look_up_backward("mtp_embedding")
        self.reduce(layer)
        self.layer = -1
