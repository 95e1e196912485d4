"""Ids: a word for every option that an entry sets, in one order; an axis of every option."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesweep.edge.schema import SCHEMA_DIRECTORY
from moesweep.store.tablefile import SAFE_ID
from moesweep.study.ids import MAX_CHARACTERS, OF_OPTIONS, with_ids
from moesweep.study.keys import KEYS, SCHEMA, WORDED
from moesweep.study.naming import named
from moesweep.study.schemas import SCHEMAS, written
from moesweep.study.sweep import enumerate_sweep
from moesweep.study.workload import GIVEN, frame_of, with_derived

DATA = Path(__file__).parent / "data"
OPTIONS = {"model": "gpt_7B", "world_size": 64, "tp": 4, "pp": 2, "ep": 4, "global_batch_size": 64}
OPTIONS |= {"num_experts": 8, "moe_router_topk": 2, "seq_length": 128}
BASE = "gpt_7B-ws64-tp4-pp2-ep4-gbs64-mbs1-seq128-moe"

# An axis of each key: the values, and the words of their ids.
AXES: dict[str, tuple[list[Any], list[str]]] = {
    "etp": ([1, 2, "tp"], ["-etp1", "-etp2", ""]),
    "virtual_pipeline": ([1, 2, 6], ["", "-vp2", "-vp6"]),
    "microbatch_group_size_per_vp_stage": (
        [2, 4],
        ["", "-microbatch_group_size_per_vp_stage4"],
    ),
    "num_experts": ([4, 8, 16], ["-experts4", "", "-experts16"]),
    "moe_router_topk": ([1, 2], ["-topk1", ""]),
    "moe_ffn_hidden_size": ([0, 1408, 16384], ["", "-ffn1408", ""]),
    "recompute": (["none", "selective", "full"], ["", "-selective", "-full"]),
    "recompute_modules": (
        [["core_attn"], ["moe_act", "core_attn"], []],
        ["", "-core_attn+moe_act", "-nomodules"],
    ),
    "recompute_method": (["uniform", "block"], ["", "-recompute_methodblock"]),
    "recompute_num_layers": ([1, 2], ["", "-recompute_num_layers2"]),
    "moe_router_dtype": (["none", "fp32", "fp64"], ["", "-moe_router_dtypefp32", "-moe_router_dtypefp64"]),
    "cuda_graph_impl": (["none", "local"], ["", "-cuda_graph_impllocal"]),
    "cuda_graph_scope": (
        [["attn"], ["moe", "attn"], []],
        ["-cuda_graph_scopeattn", "-cuda_graph_scopeattn+moe", ""],
    ),
    "moe_router_fusion": ([False, True], ["", "-moerouterfusion"]),
    "overlap_moe_expert_parallel_comm": ([False, True], ["", "-overlapmoeexpertparallelcomm"]),
    "moe_permute_fusion": ([False, True], ["", "-moepermutefusion"]),
    "cross_entropy_loss_fusion": ([False, True], ["", "-crossentropylossfusion"]),
    "flash_attention": ([False, True], ["", "-flash"]),
    "sequence_parallel": ([True, False], ["", "-nosp"]),
    "distributed_optimizer": ([True, False], ["", "-nodistopt"]),
    "dtype": (["bf16", "fp16"], ["", "-fp16"]),
    "fine_grained_activation_offloading": ([False, True], ["", "-finegrainedactivationoffloading"]),
    "offload_modules": (
        [[], ["attn_proj", "core_attn"], ["moe_act"]],
        ["", "-offloadcore_attn+attn_proj", "-offloadmoe_act"],
    ),
    "min_offloaded_tensor_size": ([1 << 20, 0], ["", "-min_offloaded_tensor_size0"]),
    "optimizer_cpu_offload": ([False, True], ["", "-optimizercpuoffload"]),
    "optimizer_offload_fraction": ([1.0, 0.5], ["", "-optimizer_offload_fraction0.5"]),
    "hierarchical_context_parallel_sizes": (
        [[2, 1], [2, 2]],
        [f"-hierarchical_context_parallel_sizes~{digest}" for digest in ("af1a1fc1", "1ad6041f")],
    ),
    "fp8": (["none", "hybrid", "e4m3"], ["", "-fp8hybrid", "-fp8e4m3"]),
    "use_megatron_fsdp": ([False, True], ["", "-usemegatronfsdp"]),
    "framework": (["megatron-core", "megatron-lm"], ["", "-framework~9944cb96"]),
    "blocking_launches": ([False, True], ["", "-blockinglaunches"]),
    "use_tp_pp_dp_mapping": ([False, True], ["", "-usetpppdpmapping"]),
    "deterministic_mode": ([False, True], ["", "-deterministicmode"]),
    "gated_mlp": ([True, False], ["-gatedmlp", ""]),
    "num_layers": ([24, 36], ["-num_layers24", ""]),
    "attention": (["mha", "gqa"], ["", "-attentiongqa"]),
    "first_k_dense": ([0, 1], ["", "-first_k_dense1"]),
    "routing": (
        ["balanced", {"zipf": 1.2}, {"zipf": 1.2, "seed": 7, "capacity_factor": 1.25}, {"lognormal": 0.5}],
        ["", "-zipf1.2", "-zipf1.2+seed7+capacity1.25", "-lognormal0.5"],
    ),
}


def ids(root: Path, folder: Path, sweep: dict[str, Any]) -> list[str]:
    path = folder / "sweep.yaml"
    path.write_text(json.dumps(sweep), encoding="utf-8")
    return enumerate_sweep(root, path)["workload"].to_list()


@pytest.mark.parametrize("key", AXES)
def test_every_key_is_an_axis_with_its_word(root: Path, tmp_path: Path, key: str) -> None:
    values, words = AXES[key]
    if words.count("") > 1:  # One workload said twice is refused: each alone.
        found = [ids(root, tmp_path, {"options": OPTIONS, "rows": [{key: value}]})[0] for value in values]
    else:
        found = ids(root, tmp_path, {"options": OPTIONS, "grids": [{key: values}]})
    assert found == [BASE + word for word in words]


def test_the_digest_is_of_the_value() -> None:
    assert hashlib.sha256(b"megatron-lm").hexdigest()[:8] == AXES["framework"][1][1].partition("~")[2]


def test_words_stand_in_one_order(root: Path, tmp_path: Path) -> None:
    row = {"routing": {"lognormal": 0.5}, "dtype": "fp16", "num_experts": 16, "etp": 1, "recompute": "full"}
    row |= {"virtual_pipeline": 6, "sequence_parallel": False, "flash_attention": True}
    row |= {"moe_router_topk": 1, "distributed_optimizer": False, "moe_ffn_hidden_size": 1408}
    row |= {"blocking_launches": True, "tied_embeddings": False}
    words = "etp1-vp6-experts16-topk1-ffn1408-full-flash-nosp-nodistopt-fp16"
    rest = "notiedembeddings-blockinglaunches-lognormal0.5"
    assert ids(root, tmp_path, {"options": OPTIONS, "rows": [row]}) == [f"{BASE}-{words}-{rest}"]


def test_what_the_options_say_has_no_word(root: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"recompute": "full", "etp": 1, "flash_attention": True}
    rows = [{}, {"recompute": "none"}, {"etp": "tp"}, {"flash_attention": True, "tp": 2}]
    wanted = [BASE, f"{BASE}-none", f"{BASE}-etp4", BASE.replace("tp4", "tp2")]
    assert ids(root, tmp_path, {"options": options, "rows": rows}) == wanted


def test_another_entry_renames_none(root: Path, tmp_path: Path) -> None:
    rows = [{"etp": 1}, {"recompute": "full", "routing": {"zipf": 2}}]
    alone = [ids(root, tmp_path, {"options": OPTIONS, "rows": [row]})[0] for row in rows]
    together = ids(root, tmp_path, {"options": OPTIONS, "rows": [*rows, {"flash_attention": True}]})
    assert together[:2] == alone


def test_two_tables_are_two_words(root: Path, tmp_path: Path) -> None:
    given = [OPTIONS | {"etp": 4, "routing": f"table(file=config/{name},sha256=0)"} for name in "ab"]
    model = {"num_query_groups": 32, "num_attention_heads": 32, "ffn_hidden_size": 16384, "vocab_size": 50257}
    frame = with_derived(
        frame_of([row | model | {"micro_batch_size": 1, "routing" + OF_OPTIONS: "balanced"} for row in given])
    )
    digests = [hashlib.sha256(f"config/{name}".encode()).hexdigest()[:8] for name in "ab"]
    assert frame["workload"].to_list() == [f"{BASE}-table~{digest}" for digest in digests]


def test_ids_of_the_shipped_sweeps_stay(root: Path) -> None:
    plain = "{model}-ws{world_size}-tp{tp}-pp{pp}-ep{ep}-gbs{global_batch_size}-mbs{micro_batch_size}"
    study, dense = (
        enumerate_sweep(root, f"config/sweeps/{name}.yaml") for name in ("moe-a100-123", "dense-a100-184")
    )
    for row in study.iter_rows(named=True):
        assert row["workload"] == f"{plain}-seq{{seq_length}}-{{kind}}".format(**row)
    gained = 0
    for row in dense.iter_rows(named=True):
        flash = "-flash" if row["flash_attention"] else ""
        assert row["workload"] == f"{plain}-seq{{seq_length}}-dense".format(**row) + flash
        gained += bool(flash)
    assert gained == 55


def test_a_long_id_ends_in_a_digest(root: Path, tmp_path: Path) -> None:
    row = {key: AXES[key][0][0] for key in ("num_experts", "moe_router_topk", "num_layers")}
    row |= {"framework": "megatron-lm", "blocking_launches": True, "etp": 1, "sequence_parallel": False}
    row |= {"normalization": "rmsnorm", "position_embedding": "rope", "tied_embeddings": False}
    grid = row | {"routing": [{"zipf": 1.25, "seed": 2**52}, {"zipf": 1.5, "seed": 2**52}]}
    found = ids(root, tmp_path, {"options": OPTIONS, "grids": [grid]})
    assert [len(id_) for id_ in found] == [MAX_CHARACTERS] * 2
    assert len(set(found)) == 2
    assert {id_[-9] for id_ in found} == {"~"}
    digest = re.compile("[0-9a-f]{8}")
    assert all(digest.fullmatch(id_[-8:]) for id_ in found)


def test_an_exact_id_wins_over_those_it_begins(root: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(
        json.dumps({"options": OPTIONS, "grids": [{"recompute": ["none", "full"]}]}), encoding="utf-8"
    )
    frame = enumerate_sweep(root, tmp_path / "sweep.yaml")
    assert named(frame, [BASE])["workload"].to_list() == [BASE]
    assert named(frame, [f"{BASE}*"])["workload"].to_list() == [BASE, f"{BASE}-full"]


def test_a_dense_workload_has_no_words_of_experts(root: Path, tmp_path: Path) -> None:
    row = {"num_experts": 0, "ep": 1, "etp": 1, "moe_router_topk": 1, "routing": {"zipf": 1}, "dtype": "fp16"}
    dense = BASE.replace("ep4", "ep1").replace("-moe", "-dense")
    assert ids(root, tmp_path, {"options": OPTIONS, "rows": [row]}) == [f"{dense}-fp16"]


def test_every_key_but_the_base_has_a_place() -> None:
    assert {key.name for key in WORDED} | {"listed", "model", "world_size", "tp", "pp", "ep"} | {
        "global_batch_size",
        "micro_batch_size",
        "seq_length",
    } == set(GIVEN)
    assert WORDED[-1].name == "routing"


SOUND: dict[str, Any] = {
    key.name: key.default for key in KEYS.values() if isinstance(key.default, bool | int | str)
}
SOUND |= OPTIONS | {"etp": 4, "num_layers": 8, "hidden_size": 64, "ffn_hidden_size": 256, "vocab_size": 999}
SOUND |= {"num_attention_heads": 8, "num_query_groups": 8, "gated_mlp": True, "tied_embeddings": True}
SOUND |= {"normalization": "rmsnorm", "position_embedding": "rope"}
TEXTS = st.sampled_from(["a", "a-b", "a b", "é", "a/b", "x.y+z", "-", "~"])


def values(key: str) -> st.SearchStrategy[Any]:
    if key == "routing":
        return st.sampled_from(["balanced", "zipf(alpha=1,seed=0)", "zipf(alpha=1e-05,seed=0)"])
    kind = SCHEMA[key]
    return st.booleans() if kind == pl.Boolean else TEXTS if kind == pl.String else st.integers(1, 9999)


@given(st.fixed_dictionaries({}, optional={key.name: values(key.name) for key in WORDED}), st.data())
def test_ids_are_equal_where_workloads_are(own: dict[str, Any], data: st.DataObject) -> None:
    other = dict(own)
    if own:
        key = data.draw(st.sampled_from(sorted(own)))
        other[key] = data.draw(values(key))
    frame = with_derived(
        frame_of([SOUND | row | {key + OF_OPTIONS: SOUND.get(key) for key in row} for row in (own, other)])
    ).select(*SCHEMA)
    alike = frame.drop("workload").row(0) == frame.drop("workload").row(1)
    assert (frame["workload"][0] == frame["workload"][1]) == alike
    assert frame["workload"].str.contains(SAFE_ID).all()
    assert frame["workload"].str.len_bytes().max() <= MAX_CHARACTERS  # type: ignore[operator]


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_what_the_keys_say(name: str) -> None:
    """Mend with `python -m moesweep.study.schemas`."""
    assert (SCHEMA_DIRECTORY / f"{name}.schema.json").read_text(encoding="utf-8") == written(name)


def test_each_row_of_a_frame_has_its_own_words() -> None:
    row = with_derived(frame_of([SOUND]))
    many = row.select(pl.all().repeat_by(4).explode()).with_columns(
        tp=pl.Series([1, 2, 4, 8]),
        recompute=pl.Series(["none", "full"] * 2),
        **{"recompute" + OF_OPTIONS: pl.lit("none"), "etp" + OF_OPTIONS: pl.lit(8, pl.Int64)},
    )
    words = [id_.partition("-seq128-moe")[2] for id_ in with_ids(many)["workload"]]
    assert words == ["-etp4", "-etp4-full"] * 2
    assert with_ids(many)["workload"][3].startswith("gpt_7B-ws64-tp8-pp2-ep4-gbs64-mbs1-")
