"""A GOAL schedule run on LogGOPS: L, o, g, G, no rendezvous; as much of the model as two goldens need.

An op starts when all that it requires has finished and its processor is free. A send keeps the processor for
o and leaves when the card is free, for g + (s - 1)·G; it arrives L after it has left and all its bytes have;
a receive that meets its message keeps the processor for o. (Hoefler et al. 2010, LogGOPSim.)
"""

import heapq
from collections import defaultdict, deque

from moesweep.export.goal_check import Schedule


def finish_times(schedule: Schedule, L: int, o: int, g: int, G: int) -> list[int]:
    """When each host has done its last op."""
    waiting = [{label: len(op.waits) for label, op in ops.items()} for ops in schedule]
    followers = [defaultdict(list) for _ in schedule]
    for rank, ops in enumerate(schedule):
        for label, op in ops.items():
            for earlier in op.waits:
                followers[rank][earlier].append(label)
    cpu, card, done = [0] * len(schedule), [0] * len(schedule), [0] * len(schedule)
    events = [(0, rank, label) for rank, ops in enumerate(waiting) for label, n in ops.items() if not n]
    heapq.heapify(events)
    arrived: dict[tuple[int, int, int], deque[int]] = defaultdict(deque)
    posted: dict[tuple[int, int, int], deque[tuple[int, int]]] = defaultdict(deque)

    def finished(rank: int, label: int, time: int) -> None:
        done[rank] = max(done[rank], time)
        for follower in followers[rank][label]:
            waiting[rank][follower] -= 1
            if not waiting[rank][follower]:
                heapq.heappush(events, (time, rank, follower))

    while events:
        time, rank, label = heapq.heappop(events)
        op = schedule[rank][label]
        if op.kind == "calc":
            cpu[rank] = max(cpu[rank], time) + op.amount
            finished(rank, label, cpu[rank])
        elif op.kind == "send":
            cpu[rank] = max(cpu[rank], time) + o
            leaves = max(card[rank], cpu[rank])
            card[rank] = leaves + g + (op.amount - 1) * G
            key = (rank, op.peer, op.tag)
            arrived[key].append(leaves + L + (op.amount - 1) * G)
            finished(rank, label, cpu[rank])
            if posted[key]:
                _, waiting_label = posted[key].popleft()
                heapq.heappush(events, (arrived[key][0], op.peer, waiting_label))
        else:
            key = (op.peer, rank, op.tag)
            if not arrived[key]:
                posted[key].append((time, label))
                continue
            cpu[rank] = max(cpu[rank], time, arrived[key].popleft()) + o
            finished(rank, label, cpu[rank])
    return done
