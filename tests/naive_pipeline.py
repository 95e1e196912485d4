"""A pipeline run step by step: when each pass of each stage ends, given the order of its schedule."""

from collections.abc import Sequence

from naive_layout import naive_schedule


def makespan(
    forward: Sequence[float],
    backward: Sequence[float],
    microbatches: int,
    chunks: int,
    message: tuple[float, float] = (0.0, 0.0),
    stages: int | None = None,
    saved: Sequence[float] | None = None,
    together: int | None = None,
) -> float:
    """Seconds until the last backward of any stage ends.

    `forward` and `backward` are seconds of one chunk's pass per stage, or per virtual stage if `stages` says
    how many there are. A pass starts when its stage is free and the neighbour that feeds it has finished:
    virtual stage c·pp + p needs the one before it forward, the one after it backward; a message between two
    stages takes `message`, forward or backward. Where passes run in pairs, the second one of a pair is
    shorter by what the chunk of both saves that saves less, of `saved` by virtual stage. `together`
    micro-batches, or pp, pass through a chunk before the next one begins.
    """
    pp = len(forward) if stages is None else stages
    order = naive_schedule(pp, microbatches, chunks, saved is not None, together)
    queues = [[entry[2:] for entry in order if entry[0] == stage] for stage in range(pp)]
    free = [0.0] * pp
    ended: dict[tuple[str, int, int], float] = {}
    forwards, beside = [0] * pp, [-1] * pp
    while any(queues):
        for stage, queue in enumerate(queues):
            while queue and (ready := _ready(queue[0], stage, pp, chunks, ended, message)) is not None:
                phase, microbatch, chunk = queue.pop(0)
                lengths = forward if phase == "forward" else backward
                seconds = lengths[stage if stages is None else chunk * pp + stage]
                if saved is not None:
                    if phase == "forward":
                        alone = 2 * (pp - 1 - stage) + (chunks - 1) * (together or pp) + 1
                        beside[stage] = chunk if forwards[stage] >= alone else -1
                        forwards[stage] += 1
                    elif beside[stage] >= 0:
                        seconds -= min(saved[each * pp + stage] for each in (chunk, beside[stage]))
                        beside[stage] = -1
                free[stage] = max(free[stage], ready) + seconds
                ended[phase, microbatch, chunk * pp + stage] = free[stage]
    return max(free)


def _ready(
    entry: tuple[str, int, int],
    stage: int,
    pp: int,
    chunks: int,
    ended: dict[tuple[str, int, int], float],
    message: tuple[float, float],
) -> float | None:
    phase, microbatch, chunk = entry
    virtual, last = chunk * pp + stage, pp * chunks - 1
    if phase == "forward":
        if virtual == 0:
            return 0.0
        before, way = ("forward", microbatch, virtual - 1), message[0]
    elif virtual == last:
        before, way = ("forward", microbatch, virtual), 0.0
    else:
        before, way = ("backward", microbatch, virtual + 1), message[1]
    # A stage that feeds itself needs no message.
    travels = way if before[2] % pp != stage else 0.0
    return ended[before] + travels if before in ended else None
