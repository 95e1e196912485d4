"""What Megatron's options say of an optimizer on the host (`optimizer_config.py`, `arguments.py`)."""

from moesweep.study.importers.draft import DEFAULT, Draft, Told

OFFLOAD, FRACTION = "optimizer_cpu_offload", "optimizer_offload_fraction"

NOTHING = 0.0
"""What a configuration offloads that does not say how much; a launch script all."""


def read_offload(draft: Draft, told: Told, switches: bool) -> None:
    """Put offloading and its share into a draft; a share of nothing has no effect.

    switches   whether options are those of a command line, which leaves out other things than a configuration
    """
    offloads, share = told.take(OFFLOAD, False), told.take(FRACTION)
    if not offloads:
        draft.idle += [] if share is None else [FRACTION]
        return
    draft.say(OFFLOAD, True, draft.at(OFFLOAD))
    if share is not None:
        draft.say(FRACTION, float(share), draft.at(FRACTION))
    elif not switches:
        draft.say(FRACTION, NOTHING, f"{DEFAULT}: {FRACTION}")
