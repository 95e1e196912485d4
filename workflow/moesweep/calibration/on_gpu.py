"""Times of kernels on one GPU, as JSON for `moesweep measure`: plain PyTorch, nothing else.

    python measure_gpu.py > mine.json

Products, fused attention, sums, permutations of rows and Adam, each repeated for about a second after a
warm-up, so that clocks are those of a lasting load. `--device cpu --small` tries it without a GPU.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

GEMMS = [(8192, 8192, k) for k in (512, 1024, 2048, 4096, 8192, 16384)] + [
    (4096, 8192, 8192),
    (4096, 28672, 4096),
    (16384, 4096, 4096),
]
"""m, n, k: rows of tokens, outputs, inputs."""

ATTENTION = {"seq_length": 4096, "heads": 32, "head_dim": 128}
ROWS, WIDTH = 1 << 17, 4096
PARAMETERS = 1 << 28
SMALL = 64
"""What sizes are divided by with `--small`; of products each."""


def seconds_of(run: Callable[[], object], wait: Callable[[], object], at_least: float) -> float:
    """Return the mean seconds of a call, over calls that take `at_least` so many together."""
    for _ in range(3):
        run()
    wait()
    calls, start = 0, time.perf_counter()
    while True:
        for _ in range(5):
            run()
        wait()
        calls += 5
        passed = time.perf_counter() - start
        if passed >= at_least:
            return passed / calls


def products(torch: Any, device: str, small: int, timed: Callable[..., float]) -> list[dict[str, Any]]:
    """Return m, n, k and the seconds of bf16 products."""
    found = []
    for m, n, k in (tuple(size // small for size in sizes) for sizes in GEMMS):
        left, right = (torch.randn(shape, device=device, dtype=torch.bfloat16) for shape in ((m, k), (k, n)))
        found.append({"m": m, "n": n, "k": k, "seconds": timed(lambda a=left, b=right: a @ b)})
    return found


def attention(torch: Any, device: str, small: int, timed: Callable[..., float]) -> dict[str, Any]:
    """Return the seconds of causal attention, forward and backward."""
    sizes = ATTENTION | {"seq_length": ATTENTION["seq_length"] // small}
    shape = (1, sizes["heads"], sizes["seq_length"], sizes["head_dim"])
    query, key, value = (
        torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)
    )
    fused = torch.nn.functional.scaled_dot_product_attention

    def both() -> None:
        fused(query, key, value, is_causal=True).sum().backward()

    with torch.no_grad():
        forward = timed(lambda: fused(query, key, value, is_causal=True))
    return sizes | {"forward_seconds": forward, "backward_seconds": max(timed(both) - forward, 0.0)}


def passes(torch: Any, device: str, small: int, timed: Callable[..., float]) -> dict[str, dict[str, Any]]:
    """Return bytes and seconds of what memory bounds: sums, permutations of rows, Adam."""
    rows = ROWS // small
    left, right = (torch.randn((rows, WIDTH), device=device, dtype=torch.bfloat16) for _ in range(2))
    order = torch.randperm(rows, device=device)
    found = {
        "elementwise": {"bytes": 6 * rows * WIDTH, "seconds": timed(lambda: left + right)},
        "permute": {"bytes": 4 * rows * WIDTH, "seconds": timed(lambda: left.index_select(0, order))},
    }
    weight = torch.nn.Parameter(torch.zeros(PARAMETERS // small, device=device))
    weight.grad = torch.ones_like(weight)
    adam = torch.optim.AdamW([weight], fused=device != "cpu")
    # Reads weight, gradient and both moments, writes all but the gradient: 28 bytes a parameter in fp32.
    found["adam"] = {"bytes": 28 * weight.numel(), "seconds": timed(adam.step)}
    return found


def main() -> None:
    """Print the times as JSON."""
    parser = argparse.ArgumentParser(description="time kernels on one GPU for moesweep measure")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each kernel is repeated")
    arguments = parser.parse_args()
    import torch  # type: ignore[import-not-found, unused-ignore]

    device, small = arguments.device, SMALL if arguments.small else 1
    wait = torch.cuda.synchronize if device != "cpu" else (lambda: None)

    def timed(run: Callable[[], object]) -> float:
        return seconds_of(run, wait, arguments.seconds)

    name = torch.cuda.get_device_name(device) if device != "cpu" else "CPU"
    given = (torch, device, small, timed)
    found = {"device": name, "torch": torch.__version__, "gemm": products(*given)}
    json.dump(found | {"attention": attention(*given)} | passes(*given), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
