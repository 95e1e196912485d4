"""Layers of a forward pass beside those of a backward pass on two streams, one thing after the other."""

from collections.abc import Mapping


def seconds_of_layers(layers: int, part: Mapping[str, float], delays: bool) -> float:
    """Seconds until the last of `layers` pairs of layers has done all but its last weight gradients.

    One stream computes, the other exchanges; each does what it is given in order, when what it needs is
    there: `attention`, `dispatch`, `experts` and `combine` of the forward pass, and with `_backward` those of
    the other; `attention_wgrad` and `experts_wgrad` are told apart. With `delays` the exchange that follows
    does not wait for these.
    """
    computes = exchanges = output = gradient = 0.0
    for _ in range(layers):
        # Backward comes in by the exchange that combines, forward by attention.
        exchanges = at_experts = max(exchanges, gradient) + part["combine_backward"]
        computes = sent = max(computes, output) + part["attention"]
        computes = given = max(computes, at_experts) + part["experts_backward"]
        exchanges = arrived = max(exchanges, sent) + part["dispatch"]
        computes += part["experts_wgrad"]
        exchanges = back = max(exchanges, given if delays else computes) + part["dispatch_backward"]
        computes = made = max(computes, arrived) + part["experts"]
        exchanges = output = max(exchanges, made) + part["combine"]
        computes = gradient = max(computes, back) + part["attention_backward"]
        computes += part["attention_wgrad"]
        if not delays:
            gradient = computes
    return max(output, gradient)
