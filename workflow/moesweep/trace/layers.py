"""The ops of one layer of each kind, forward and backward (Megatron-Core; semantics in docs/trace.md)."""

from moesweep.shapes import sizes as s
from moesweep.shapes.layer_kinds import has_experts, is_kept, is_predicting, is_windowed
from moesweep.shapes.recomputed import is_recomputed
from moesweep.trace import prediction
from moesweep.trace.attention import attention_backward, attention_forward
from moesweep.trace.mlp import dense_mlp_backward, dense_mlp_forward
from moesweep.trace.moe import WHERE_GRADIENTS_ARE, moe_mlp_backward, moe_mlp_forward
from moesweep.trace.offloading import offloaded_layer, reloaded_layer
from moesweep.trace.sharding import gathered_layer, reduced_layer
from moesweep.trace.vocabulary import Op


def layer_forward(kind: str, rows: s.Rows = s.BALANCED) -> list[Op]:
    """Return the forward ops of a layer; one of multi-token prediction ends with a head of its own."""
    gathered = gathered_layer(kind)
    if is_predicting(kind):
        own = _once(kind, _predicting(kind, rows))
        ops = [*prediction.lookup(), *own, *prediction.head_forward()]
    else:
        ops = _once(kind, _transformer(kind, rows))
    return [*gathered, *ops, *offloaded_layer(kind, rows)]


def _once(kind: str, ops: list[Op]) -> list[Op]:
    """Return forward ops without what waits until they are repeated, if they are."""
    later = is_recomputed(kind) | s.repeats("moe")
    return [op.only(~later) if op.name in WHERE_GRADIENTS_ARE else op for op in ops]


def _transformer(kind: str, rows: s.Rows) -> list[Op]:
    """Return the forward ops of attention and MLP."""
    mlp = moe_mlp_forward(rows) if has_experts(kind) else dense_mlp_forward()
    return attention_forward(is_windowed(kind)) + mlp


def _predicting(kind: str, rows: s.Rows) -> list[Op]:
    """Return the forward of a layer of multi-token prediction from embedding and hidden state on."""
    return prediction.projection_forward() + _transformer(kind, rows)


def _again(kind: str, rows: s.Rows) -> list[Op]:
    """Return a layer's forward as full recomputation repeats it."""
    forward = _predicting(kind, rows) if is_predicting(kind) else _transformer(kind, rows)
    return [op.recomputed().only(is_recomputed(kind)) for op in forward]


def layer_backward(kind: str, rows: s.Rows = s.BALANCED) -> list[Op]:
    """Return the backward ops of a layer, after the whole forward again under full recomputation.

    Where parameters are sharded, they are gathered once for both.
    """
    before = [*gathered_layer(kind), *reloaded_layer(kind, rows)]
    return [*before, *_gradients(kind, rows), *reduced_layer(kind)]


def _gradients(kind: str, rows: s.Rows) -> list[Op]:
    again = [] if is_kept(kind) else _again(kind, rows)
    mlp = moe_mlp_backward(rows) if has_experts(kind) else dense_mlp_backward()
    gradients = again + mlp + attention_backward(is_windowed(kind))
    if is_predicting(kind):
        before, after = prediction.head_backward(), prediction.projection_backward()
        return before + gradients + after + prediction.lookup_backward()
    return gradients
