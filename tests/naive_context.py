"""The naive trace's attention to sequences that cp ranks share, block by block and rank by rank."""

from __future__ import annotations

from naive_rows import Writer
from naive_sizes import context_size, own_key_value_sizes, query_size, steps_of_cp, tokens


class SharedSequences(Writer):
    """What travels between cp ranks around core attention."""

    def core_attention(self, op: str, windowed: bool, *, backward: bool = False) -> None:
        """Core attention comes with the layers."""
        raise NotImplementedError

    def shares(self, way: str) -> bool:
        """Whether several ranks share a sequence in this way."""
        return bool(self.w["cp"] > 1 and self.w["cp_comm_type"] == way)

    def exchanges(self) -> bool:
        """Whether positions are exchanged for heads."""
        return steps_of_cp(self.w)[0] > 1

    def rings(self) -> int:
        """How many ranks pass keys and values round."""
        return steps_of_cp(self.w)[1]

    def over(self, step: str) -> str:
        """The communicator of the exchange or the ring, where a sequence is shared in one step or two."""
        return f"cp_{step}" if self.w["cp_comm_type"] == "a2a+p2p" else "cp"

    def own_halves(self) -> int:
        """Halves of the pairs of a query and a key that it sees, of one rank; the same for all of them.

        Chunk j sees j whole chunks and half of itself. A rank has the i-th chunk from either end, and after
        an exchange with its neighbours those of all of them.
        """
        cp, together = self.w["cp"], steps_of_cp(self.w)[0]
        chunk = self.w["seq_length"] // (2 * cp)
        of_chunk = [chunk * chunk * (2 * j + 1) for j in range(2 * cp)]
        of_rank = [of_chunk[i] + of_chunk[-1 - i] for i in range(cp)]
        (halves,) = {sum(of_rank[first : first + together]) for first in range(0, cp, together)}
        return halves

    def sizes(self) -> tuple[int, int, int, int]:
        """Elements of a rank's own queries, keys, values and output."""
        w = self.w
        key, value = own_key_value_sizes(w)
        query, output = query_size(w) // w["tp"], context_size(w) // w["tp"]
        return tokens(w) * query, tokens(w) * key, tokens(w) * value, tokens(w) * output

    def seen_by_two_kernels(self) -> int:
        """Elements of keys and values of the prefixes of a rank's two chunks."""
        w = self.w
        cp, chunk = w["cp"], w["seq_length"] // (2 * w["cp"])
        (chunks,) = {(i + 1) + (2 * cp - i) for i in range(cp)}
        return int(w["micro_batch_size"] * chunk * chunks * sum(own_key_value_sizes(w)))

    def moved_forward(self) -> int:
        """Bytes that the kernels read and write."""
        query, key, value, output = self.sizes()
        if self.shares("all_gather"):
            return 2 * (query + self.seen_by_two_kernels() + output)
        moved = 2 * (query + key + value + output)
        if self.rings() > 1:
            # The first part of the output is corrected in place, each other one added to it.
            moved += 2 * (output + output)
            for _ in range(1, self.rings()):
                moved += 2 * (query + key + value + output)
                moved += 2 * (output + output + output)
        return moved

    def moved_backward(self) -> int:
        """The same of the backward kernels: output and its gradient are read, three gradients written."""
        query, key, value, output = self.sizes()
        once = 2 * (query + key + value + output + output + query + key + value)
        if self.shares("all_gather"):
            seen = self.seen_by_two_kernels()
            # Keys and values are read and their gradients written, then added to those of all keys.
            return 2 * (query + output + output + query) + 2 * (seen + seen) + 2 * (seen + seen + seen)
        added = 2 * 3 * (query + key + value)
        return once + sum(once + added for _ in range(1, self.rings()))

    def travels(self, names: str, collective: str, suffix: str, times: int) -> None:
        """A collective over cp for each of queries, keys, values or the output."""
        of = dict(zip("qkvo", self.sizes(), strict=True))
        for name in names:
            op = f"{name}_{suffix}" if name != "o" else "output_exchange"
            kind = self.over("a2a") if collective == "all_to_all" else "cp"
            self.collect(op, collective, kind, 2 * times * of[name])

    def reorder(self, op: str, elements: int, copies: int) -> None:
        """Elements are copied so often."""
        self.light(op, elements, reads=(2,) * copies, writes=(2,) * copies)

    def passes(self, tensors: int) -> None:
        """Blocks of keys and values go to the next rank until all have seen them."""
        _, key, value, _ = self.sizes()
        sent = sum(2 * tensors * (key + value) for _ in range(1, self.rings()))
        for end in ("send", "recv") if sent else ():
            wire = sent if end == "send" else 0
            self.message(f"kv_ring_{end}", "p2p", end, self.over("p2p"), sent, wire)

    def shared_core(self, prefix: str, windowed: bool) -> None:
        """Core attention with what travels before and after it."""
        kept, self.prefix = self.prefix, self.prefix + prefix
        query, key, value, output = self.sizes()
        cp = self.w["cp"]
        if self.exchanges():
            self.travels("qkv", "all_to_all", "exchange", 1)
            # One copy before and one after the exchange.
            self.reorder("context_reorder", query + key + value, 2)
        if self.shares("all_gather"):
            self.travels("kv", "all_gather", "context_gather", cp)
            self.reorder("context_reorder", cp * (key + value), 1)
        self.passes(1)
        self.core_attention("core_attention", windowed)
        if self.exchanges():
            self.reorder("output_reorder", output, 2)
            self.travels("o", "all_to_all", "", 1)
        self.prefix = kept

    def shared_core_backward(self, windowed: bool) -> None:
        """The reverse; of other ranks' keys and values nothing was kept."""
        query, key, value, output = self.sizes()
        cp = self.w["cp"]
        if self.exchanges():
            self.travels("o", "all_to_all", "", 1)
            self.reorder("output_reorder", output, 2)
        if self.shares("all_gather"):
            self.travels("kv", "all_gather", "context_regather", cp)
        self.passes(2)
        self.core_attention("core_attention", windowed, backward=True)
        if self.exchanges():
            self.reorder("context_reorder", query + key + value, 2)
            self.travels("qkv", "all_to_all", "exchange", 1)
        if self.shares("all_gather"):
            # Gathered keys and values, and then their gradients, are put in order.
            self.reorder("context_reorder", cp * (key + value), 2)
            self.travels("kv", "reduce_scatter", "context_gather", cp)
