"""The naive trace's ranks, groups and schedules, from plain loops."""

from __future__ import annotations

from naive_model import predicting_stage
from naive_sizes import Workload, steps_of_cp


def coordinates(w: Workload) -> list[dict[str, int]]:
    """Both coordinates of every rank, counted up with tp (or etp) fastest and pp or dp slowest."""
    stages, batches = range(w["pp"]), range(w["dp"])
    beside = w["use_tp_pp_dp_mapping"]
    outer = [(p, d) for d in batches for p in stages] if beside else [(p, d) for p in stages for d in batches]
    dense = [(p, d, c, t) for p, d in outer for c in range(w["cp"]) for t in range(w["tp"])]
    # Experts' replicas in the ranks of one stage that follow one another, and blocks of such ranks.
    replicas, blocks = w["edp"], 1
    if beside:
        replicas, blocks = w["tp"] * w["cp"] // (w["etp"] * w["ep"]), w["dp"]
    expert = [
        (p, block * replicas + edp, ep, etp)
        for block in range(blocks)
        for p in stages
        for edp in range(replicas)
        for ep in range(w["ep"])
        for etp in range(w["etp"])
    ]
    assert [x[0] for x in dense] == [x[0] for x in expert], "both orders must agree on the stage"
    return [
        {"pp": p, "dp": d, "cp": c, "tp": t, "edp": edp, "ep": ep, "etp": etp}
        for (p, d, c, t), (_, edp, ep, etp) in zip(dense, expert, strict=True)
    ]


def naive_groups(w: Workload) -> dict[str, list[list[int]]]:
    """Members of every communicator by kind; a kind's groups stand in the order of their smallest rank."""
    shared = {"tp": "cp dp pp", "cp": "tp dp pp", "pp": "tp cp dp"}
    # Ranks of one sequence hold the same parameters as those of any other.
    shared |= {"dp": "tp pp", "etp": "ep edp pp", "ep": "etp edp pp"}
    shared |= {"edp": "etp ep pp", "tp_ep": "edp pp", "embedding": "tp cp dp", "world": ""}
    shared |= {"model": "cp dp", "expert_model": "edp", "tp_cp": "dp pp", "tp_cp_dp": "pp"}
    loss = w["moe_router_load_balancing_type"]
    shared |= {"cp_a2a": "tp p2p dp pp", "cp_p2p": "tp a2a dp pp"}
    if w["cp_comm_type"] != "a2a+p2p":
        del shared["cp_a2a"], shared["cp_p2p"]
    if loss in ("none", "global_aux_loss"):
        del shared["tp_cp"]
    if loss != "global_aux_loss" and not w["moe_router_enable_expert_bias"]:
        del shared["tp_cp_dp"]
    groups: dict[str, list[list[int]]] = {}
    for kind, names in shared.items():
        members: dict[tuple[int, ...], list[int]] = {}
        for rank, place in enumerate(coordinates(w)):
            # Neighbours exchange, and rings go over those so many places on.
            place["p2p"], place["a2a"] = divmod(place["cp"], steps_of_cp(w)[0])
            if kind == "embedding" and place["pp"] not in (0, predicting_stage(w)):
                continue
            members.setdefault(tuple(place[name] for name in names.split()), []).append(rank)
        groups[kind] = list(members.values())
    return groups


def naive_schedule(
    pp: int, m: int, v: int, in_pairs: bool = False, together: int | None = None
) -> list[tuple[int, int, str, int, int]]:
    """(stage, step, phase, microbatch, chunk) in order: 1F1B, or interleaved for v > 1.

    `together` micro-batches pass through a chunk before the next one begins: pp, or more.
    In pairs a forward pass more comes before them: no backward pass may wait for the one that it runs beside.
    """
    size = together or pp
    assert v == 1 or (pp > 1 and m >= size >= pp), "interleaving walks through micro-batches in rounds"
    assert v == 1 or m % size == 0 or m % size >= pp, "no round leaves stages idle"
    rows: list[tuple[int, int, str, int, int]] = []
    for stage in range(pp):
        turns = chunk_turns(size, m, v)
        warm_up = (pp - 1 - stage if v == 1 else 2 * (pp - 1 - stage) + (v - 1) * size) + in_pairs
        waiting_forward, waiting_backward = list(turns), [(mb, v - 1 - chunk) for mb, chunk in turns]
        order: list[tuple[str, int, int]] = []
        for _ in range(min(warm_up, m * v)):
            order.append(("forward", *waiting_forward.pop(0)))
        while waiting_backward:
            if waiting_forward:
                order.append(("forward", *waiting_forward.pop(0)))
            order.append(("backward", *waiting_backward.pop(0)))
        rows += [(stage, step, *entry) for step, entry in enumerate(order)]
    return rows


def chunk_turns(size: int, m: int, v: int) -> list[tuple[int, int]]:
    """(micro-batch, chunk) of the forwards: rounds of some micro-batches through one chunk after another."""
    if v == 1:
        return [(mb, 0) for mb in range(m)]
    turns: list[tuple[int, int]] = []
    for start in range(0, m, size):
        for chunk in range(v):
            turns += [(mb, chunk) for mb in range(start, min(start + size, m))]
    return turns
