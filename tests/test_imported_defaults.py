"""What importers make of options that a file leaves out, or that only have an effect beside others."""

from pathlib import Path
from typing import Any

import pytest

from foreign_files import MIXTRAL_SCRIPT
from importing import config_file
from moesweep.study.importers.known import read_file


def _script(tmp_path: Path, *changes: tuple[str, str]) -> Any:
    """Return what is read of the script with some of its words changed."""
    script = MIXTRAL_SCRIPT
    for before, after in changes:
        assert before in script
        script = script.replace(before, after)
    (tmp_path / "launch.sh").write_text(script, encoding="utf-8")
    return read_file(tmp_path / "launch.sh")


ACCOUNTED = "--account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split"


@pytest.mark.parametrize(
    ("layers", "ends", "each", "chunks"),
    [
        # (30 + 2) / pp 4 = 8 a stage, in chunks of 4 or 2; (31 + 1) / 4 = 8; 32 / 4 = 8 without any
        (30, ACCOUNTED, 4, 2),
        (30, ACCOUNTED, 2, 4),
        (31, "--account-for-loss-in-pipeline-split", 4, 2),
        (32, "", 4, 2),
    ],
)
def test_chunks_where_ends_count_as_layers(
    tmp_path: Path, layers: int, ends: str, each: int, chunks: int
) -> None:
    """Megatron `arguments.py` adds them before it divides by the layers of a chunk."""
    said = f"--bf16 {ends} --num-layers-per-virtual-pipeline-stage {each}"
    draft = _script(tmp_path, ("--bf16", said), ("--num-layers 32", f"--num-layers {layers}"))
    assert draft.row["virtual_pipeline"][0] == chunks


def test_activations_that_a_script_does_not_fuse(tmp_path: Path) -> None:
    assert "bias_activation_fusion" not in _script(tmp_path).model
    apart = _script(tmp_path, ("--swiglu", "--swiglu --no-bias-swiglu-fusion"))
    assert apart.model["bias_activation_fusion"] == (False, "launch.sh: no_bias_swiglu_fusion")
    gelu = _script(tmp_path, ("--swiglu", "--no-bias-gelu-fusion"))
    assert "bias_activation_fusion" not in gelu.model
    assert "no_bias_gelu_fusion" in gelu.idle


def test_query_groups_that_a_script_leaves_out(tmp_path: Path) -> None:
    """Megatron's number is 1 with --group-query-attention, and as many as heads without it."""
    grouped = _script(tmp_path, ("--num-query-groups 8", ""))
    assert grouped.model["num_query_groups"] == (1, "Megatron's default: num_query_groups")
    each = _script(tmp_path, ("--num-query-groups 8", ""), ("--group-query-attention", ""))
    assert each.model["num_query_groups"][0] == 32


def test_lists_of_layers_of_another_length(tmp_path: Path) -> None:
    """Of 32 layers a list says which have experts; one of 27 says nothing of dense ones, and is refused."""
    fits = _script(tmp_path, ("--bf16", "--bf16 --moe-layer-freq '([0]*3+[1]*29)'"))
    assert fits.model["first_k_dense"][0] == 3
    short = _script(tmp_path, ("--bf16", "--bf16 --moe-layer-freq '([0]*1+[1]*26)'"))
    assert "first_k_dense" not in short.model
    assert short.model["moe_layer_freq"][0] == [0] + [1] * 26


@pytest.mark.parametrize(
    ("before", "said", "found"),
    [
        ("", "--moe-aux-loss-coeff 1e-2", "aux_loss"),
        ("--moe-router-load-balancing-type aux_loss", "--moe-aux-loss-coeff 1e-2", "aux_loss"),
        ("--moe-router-load-balancing-type aux_loss", "", None),
        ("", "--moe-aux-loss-coeff 0", None),
        ("aux_loss", "seq_aux_loss --moe-aux-loss-coeff 1e-4", "seq_aux_loss"),
    ],
)
def test_losses_have_a_coefficient(tmp_path: Path, before: str, said: str, found: str | None) -> None:
    """Megatron's coefficient is 0 unless said, and then there is no loss; the kind is aux_loss."""
    changes = [(before, said)] if before else [("--bf16", f"--bf16 {said}")]
    row = _script(tmp_path, *changes).row
    assert row.get("moe_router_load_balancing_type", (None,))[0] == found


@pytest.mark.parametrize(
    ("said", "name", "value"),
    [
        ("--optimizer sgd", "optimizer", "sgd"),
        ("--optimizer adam", "optimizer", None),
        ("--make-vocab-size-divisible-by 256", "make_vocab_size_divisible_by", 256),
        ("--make-vocab-size-divisible-by 128", "make_vocab_size_divisible_by", None),
        ("--num-distributed-optimizer-instances 2", "num_distributed_optimizer_instances", 2),
        ("--num-distributed-optimizer-instances 1", "num_distributed_optimizer_instances", None),
        ("--transformer-impl local", "transformer_impl", "local"),
        ("--no-gradient-accumulation-fusion", "no_gradient_accumulation_fusion", True),
        ("--ddp-bucket-size 1000000", "ddp_bucket_size", 1000000),
    ],
)
def test_options_beyond_the_model_are_named(tmp_path: Path, said: str, name: str, value: Any) -> None:
    """Of what would move numbers nothing is said to have no effect."""
    draft = _script(tmp_path, ("--bf16", f"--bf16 {said}"))
    assert draft.unread.get(name) == value
    assert value is None or name not in draft.idle


def test_what_a_script_leaves_out_and_is_not_modelled(tmp_path: Path) -> None:
    """Megatron trains in fp32, and gathers tokens, unless told otherwise."""
    draft = _script(tmp_path)
    assert draft.unread.keys() == {"moe_token_dispatcher_type"}
    assert "allgather" in draft.unread["moe_token_dispatcher_type"]
    draft = _script(tmp_path, ("--bf16", "--moe-token-dispatcher-type alltoall"))
    assert draft.unread.keys() == {"params_dtype"}
    assert "fp32" in draft.unread["params_dtype"]


QWEN = {
    **{"num_hidden_layers": 4, "hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "vocab_size": 1000, "hidden_act": "silu", "sliding_window": 32},
}


@pytest.mark.parametrize("name", ["Qwen2ForCausalLM", "Qwen3ForCausalLM"])
@pytest.mark.parametrize(
    ("said", "window", "marks"),
    [
        ({"use_sliding_window": True, "max_window_layers": 3}, [31, 0], [0, 0, 0, 1]),
        ({"use_sliding_window": True, "max_window_layers": 0}, [31, 0], None),
        # None of 4 layers is above the 28th.
        ({"use_sliding_window": True}, None, None),
        ({"use_sliding_window": False, "max_window_layers": 0}, None, None),
        ({"max_window_layers": 0}, None, None),
        (
            {"use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"] * 2},
            *([31, 0], [0, 1, 0, 1]),
        ),
    ],
)
def test_windows_of_dense_qwen(tmp_path: Path, name: str, said: Any, window: Any, marks: Any) -> None:
    model = read_file(Path(config_file(tmp_path, {"architectures": [name], **QWEN, **said}))).model
    found = [model.get(key, (None,))[0] for key in ("window_size", "window_attn_skip_freq")]
    assert found == [window, marks]
