"""Multi-token prediction: what a module of it does around its layer (Megatron `multi_token_prediction.py`).

The embedding of the next token and the hidden state are normed, put side by side and projected back to h; the
layer follows, a norm, and the model's head with a loss of its own: where the model's own loss is.
"""

from moesweep.shapes import sizes as s
from moesweep.shapes.placement import predicts_apart
from moesweep.trace.elementwise import norm, norm_backward
from moesweep.trace.ends import lookup_backward as table_backward
from moesweep.trace.ends import lookup_forward as table_forward
from moesweep.trace.ends import prediction_backward, prediction_forward
from moesweep.trace.linears import SP, column_parallel, column_parallel_backward
from moesweep.trace.vocabulary import Op, all_gather, elementwise, gemm

CONCATENATION = 8  # of two activations: read and write both


def lookup() -> list[Op]:
    """Return the lookup of the next token's embedding."""
    return table_forward("mtp_embedding")


def lookup_backward() -> list[Op]:
    """Return the mirror of `lookup`."""
    return table_backward("mtp_embedding")


def _projection() -> Op:
    # [b·s, h/t] <- [b·s, 2h]
    return gemm("mtp_projection", s.tokens, s.hidden // s.tp, 2 * s.hidden)


def _concatenation() -> Op:
    return elementwise("mtp_concatenation", CONCATENATION * s.local_tokens * s.hidden)


def projection_forward() -> list[Op]:
    """Return both norms, concatenation and projection, whose input and then output are gathered over tp."""
    return [
        norm("mtp_embedding_norm", s.local_tokens, s.hidden),
        norm("mtp_hidden_norm", s.local_tokens, s.hidden),
        _concatenation(),
        *column_parallel("mtp", _projection(), 2 * s.activation_bytes),
        all_gather("mtp_output_gather", "tp", s.activation_bytes),
    ]


def projection_backward() -> list[Op]:
    """Return the mirror of `projection_forward`.

    Every rank took its own tokens of the gathered output, so under sequence parallelism their gradients are
    gathered; of the columns each rank then takes its own. The hidden state's gradient joins the head's.
    """
    return [
        all_gather("mtp_output_gather", "tp", s.activation_bytes).only(SP),
        *column_parallel_backward("mtp", _projection(), 2 * s.activation_bytes),
        _concatenation(),
        norm_backward("mtp_hidden_norm", s.local_tokens, s.hidden, joins=True),
        norm_backward("mtp_embedding_norm", s.local_tokens, s.hidden),
    ]


def _there(ops: list[Op], apart: bool) -> list[Op]:
    """Return ops that the loss's stage runs, there where the module stands `apart` from it, or where not."""
    return [op.only(predicts_apart if apart else ~predicts_apart) for op in ops]


def head_forward() -> list[Op]:
    """Return the norm after the layer and, where that stands with the loss, the head."""
    final = norm("mtp_final_norm", s.local_tokens, s.hidden)
    return [final, *_there(prediction_forward("mtp_"), apart=False)]


def head_backward() -> list[Op]:
    """Return the mirror of `head_forward`."""
    final = norm_backward("mtp_final_norm", s.local_tokens, s.hidden)
    return [*_there(prediction_backward("mtp_"), apart=False), final]


def distant_head_forward() -> list[Op]:
    """Return the head of a module that stands on another stage than the loss."""
    return _there(prediction_forward("mtp_"), apart=True)


def distant_head_backward() -> list[Op]:
    """Return the mirror of `distant_head_forward`."""
    return _there(prediction_backward("mtp_"), apart=True)
