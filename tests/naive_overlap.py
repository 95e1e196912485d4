"""Reductions run bucket by bucket: when each one is full, when the link is free for it, what is left."""

from __future__ import annotations

from typing import Any


def buckets(w: dict[str, Any], stage: int, parameters: float) -> list[list[float]]:
    """The parameters of each bucket, by chunk, in the order in which backward passes fill them.

    All chunks hold as many. The first chunk of the first stage is cut; its rest fills up last.
    """
    each = parameters / w["virtual_pipeline"]
    most = max(40_000_000, 1_000_000 * w["dp"] * w["cp"])
    found = []
    for chunk in reversed(range(w["virtual_pipeline"])):
        left, own = each, []
        while stage == 0 and chunk == 0 and left > most:
            own.append(float(most))
            left -= most
        found.append([*own, left])
    return found


def waited_for(w: dict[str, Any], stage: int, parameters: float, seconds: float, backward: float) -> float:
    """Seconds from a stage's last backward pass to the end of its last reduction.

    `seconds` is what all buckets take together, `backward` a micro-batch's pass through the whole stage. The
    last round of micro-batches of a chunk follow those of the chunk after it; of the last one, parameters
    get their gradients one like the other.
    """
    chunks = w["virtual_pipeline"]
    each = backward / chunks
    free = float("-inf")
    rounds = list(range(0, w["num_microbatches"], w["microbatch_group_size_per_vp_stage"]))
    last = w["num_microbatches"] - rounds[-1]
    for place, own in enumerate(buckets(w, stage, parameters)):
        # The end of this chunk's last pass, before the end of all.
        over = -(chunks - 1 - place) * last * each
        filled = 0.0
        for bucket in own:
            filled += bucket
            full = over - each * (1 - filled / sum(own))
            free = max(free, full) + seconds * bucket / parameters
    return free
