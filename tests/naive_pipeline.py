"""A pipeline run step by step: when each pass of each stage ends, given the order of its schedule."""

from collections.abc import Sequence

from naive_layout import naive_schedule


def makespan(forward: Sequence[float], backward: Sequence[float], microbatches: int, chunks: int) -> float:
    """Seconds until the last backward of any stage ends.

    `forward` and `backward` are seconds of one chunk's pass per stage. A pass starts when its stage is
    free and the neighbour that feeds it has finished: virtual stage c·pp + p needs the one before it
    forward, the one after it backward; messages take no time.
    """
    pp = len(forward)
    order = naive_schedule(pp, microbatches, chunks)
    queues = [[entry[2:] for entry in order if entry[0] == stage] for stage in range(pp)]
    free = [0.0] * pp
    ended: dict[tuple[str, int, int], float] = {}
    while any(queues):
        for stage, queue in enumerate(queues):
            while queue and (ready := _ready(queue[0], stage, pp, chunks, ended)) is not None:
                phase, microbatch, chunk = queue.pop(0)
                seconds = forward[stage] if phase == "forward" else backward[stage]
                free[stage] = max(free[stage], ready) + seconds
                ended[phase, microbatch, chunk * pp + stage] = free[stage]
    return max(free)


def _ready(
    entry: tuple[str, int, int], stage: int, pp: int, chunks: int, ended: dict[tuple[str, int, int], float]
) -> float | None:
    phase, microbatch, chunk = entry
    virtual, last = chunk * pp + stage, pp * chunks - 1
    if phase == "forward":
        return 0.0 if virtual == 0 else ended.get(("forward", microbatch, virtual - 1))
    feeder = ("forward", microbatch, virtual) if virtual == last else ("backward", microbatch, virtual + 1)
    return ended.get(feeder)
