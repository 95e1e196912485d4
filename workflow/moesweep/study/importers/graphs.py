"""What Megatron's options say of CUDA graphs, older names of them among them.

Sources: megatron/core/transformer/transformer_config.py, `enable_cuda_graph`, `external_cuda_graph`.
"""

from typing import Any

from moesweep.study.importers.draft import Draft, Told
from moesweep.study.keys import KEYS

IMPL, SCOPE = "cuda_graph_impl", "cuda_graph_scope"
_OLDER = {"enable_cuda_graph": "local", "external_cuda_graph": "transformer_engine"}


def read_graphs(draft: Draft, told: Told) -> None:
    """Put whose graphs hold what into a draft; the scope `full` of older versions is a whole layer.

    Graphs of something else than layers are not modelled: a scope of a whole iteration, or another word.
    """
    said, scope = {IMPL: told.take(IMPL)}, told.take(SCOPE)
    said |= {name: impl for name, impl in _OLDER.items() if told.take(name)}
    name, impl = next(
        ((name, impl) for name, impl in said.items() if impl not in (None, "none")), (IMPL, None)
    )
    parts = _parts(scope)
    if impl is None:
        draft.idle += [key for key in (IMPL, SCOPE, *_OLDER) if key in told]
    elif impl not in KEYS[IMPL].form["enum"] or not {*parts} <= {*KEYS[SCOPE].form["items"]["enum"]}:
        draft.unread |= {name: impl} | ({} if scope is None else {SCOPE: scope})
    else:
        draft.say(IMPL, impl, draft.at(name))
        if parts:
            draft.say(SCOPE, parts, draft.at(SCOPE))


def _parts(scope: Any) -> list[str]:
    """Return what a scope names, a list or words with spaces or commas between."""
    named = scope if isinstance(scope, list) else str(scope or "").replace(",", " ").split()
    return [] if named == ["full"] else [str(part) for part in named]
