"""Where layers stand, worked out by hand."""

from typing import Any

import pytest

from moesweep.shapes.placement import alike, chunk_contents, layer_layout, layout_parts
from naive_model import part_sizes
from small import small

FIRST, LAST = "num_layers_in_first_pipeline_stage", "num_layers_in_last_pipeline_stage"
EMBEDDING, LOSS = "account_for_embedding_in_pipeline_split", "account_for_loss_in_pipeline_split"
LAYOUT = "pipeline_model_parallel_layout"
DEEPSEEK: dict[str, Any] = {"num_layers": 61, "pp": 16, "world_size": 64, "global_batch_size": 128}


def held(**changes: Any) -> list[list[int]]:
    """Layers of each chunk of each stage."""
    row = small(**changes)
    found = layer_layout(row).filter(layer_kind="moe")
    pp, chunks = row["pp"].item(), row["virtual_pipeline"].item()
    return [[found.filter(stage=p, chunk=c).height for c in range(chunks)] for p in range(pp)]


def test_deepseek_v3_on_sixteen_stages() -> None:
    # Megatron-LM issues 381, 857, 1303: 4 layers on each stage but the last, which has the loss and 1
    assert held(**DEEPSEEK, **{FIRST: 4, LAST: 1}) == [[4]] * 15 + [[1]]
    # 61 and two that count as such are no multiple of 16, 62 and two are 4 each
    ends = {EMBEDDING: True, LOSS: True, "num_layers": 62}
    assert held(**DEEPSEEK | ends) == [[3], *([[4]] * 14), [3]]


def test_counts_are_cut_into_chunks() -> None:
    # 16 layers: 2, 4, 4, 6, half of each in either chunk; the second chunks follow the first ones
    changes = {"num_layers": 16, "pp": 4, "virtual_pipeline": 2, FIRST: 2, LAST: 6}
    assert held(**changes) == [[1, 1], [2, 2], [2, 2], [3, 3]]
    layers = layer_layout(small(**changes)).filter(stage=0)
    assert layers.select("layer", "chunk").rows() == [(0, 0), (8, 1)]


def test_the_loss_counts_in_the_last_chunk_alone() -> None:
    assert held(num_layers=7, virtual_pipeline=2, **{LOSS: True}) == [[2, 2], [2, 1]]


def test_a_chunk_without_layers_runs_none() -> None:
    workloads = small(num_layers=3, **{LAYOUT: "E|ttt|L"}, pp=3, world_size=12, global_batch_size=12)
    chunks = chunk_contents(workloads, layer_layout(workloads))
    assert chunks.select("moe", "first", "last").rows() == [(0, 1, 0), (3, 0, 0), (0, 0, 1)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, True), ({"virtual_pipeline": 2}, False), ({FIRST: 1}, False), ({"first_k_dense": 1}, False)],
)
def test_stages_are_alike_with_equal_layers_in_one_chunk(changes: dict[str, Any], expected: bool) -> None:
    workloads = small(num_layers=4, **changes)
    assert alike(chunk_contents(workloads, layer_layout(workloads)))["alike"].item() == expected


def test_a_layout_in_letters() -> None:
    # ModelZoo's DeepSeek-V3, its prediction beside the loss: 32 parts on 16 stages
    text = "Et*3|(tt|)*28t,t|,mL"
    assert layout_parts(text) == ("Ettt", *["tt"] * 29, "mL")
    changes = {"num_layers": 8, "virtual_pipeline": 2, LAYOUT: "Et*3||(t)*4|tL"}
    assert held(**changes) == [[3, 4], [0, 1]]


def test_a_prediction_stands_where_its_letter_does() -> None:
    # Megatron-Core's example for DeepSeek-V3, `pipeline_parallel_layer_layout.py`: rank 14 decoder*2, mtp
    changes = DEEPSEEK | {"virtual_pipeline": 2, LAYOUT: "Et*3|(tt|)*29m|L", "mtp_num_layers": 1}
    assert held(**changes) == [[3, 2], *([[2, 2]] * 13), [2, 0], [2, 0]]
    found = layer_layout(small(**changes)).filter(layer_kind="mtp_moe")
    assert found.select("layer", "stage", "chunk").rows() == [(61, 14, 1)]


def test_messages_that_arrive_of_a_prediction_on_another_stage() -> None:
    """Behind the prediction two hidden states travel, and two gradients back; in the last chunk alone."""
    apart = {"pp": 4, "num_layers": 8, "mtp_num_layers": 1, "tied_embeddings": False, "world_size": 32}
    one = small(**apart, **{LAYOUT: "Etttt|tttt|m|L"})
    two = small(**apart, **{LAYOUT: "Et|t|t|t|tttt|m||L"}, virtual_pipeline=2)
    found = [
        chunk_contents(each, layer_layout(each)).select("recv_forward", "recv_backward").rows()
        for each in (one, two)
    ]
    assert found[0] == [(0, 1), (1, 1), (1, 2), (2, 0)]
    # stage by stage, both chunks; the prediction is on stage 1 of the last chunk
    assert found[1] == [(0, 1), (1, 1), (1, 1), (1, 2), (1, 1), (2, 2), (1, 1), (2, 0)]


@pytest.mark.parametrize(
    "text", ["Et*3|(tt|)*29,m|L", "E|t*10||tL", "Ett|(t|,t|)*3L", "(E)*1(tm|)*2,L*1", "Et*3|(t*4|)*2L"]
)
def test_what_is_written_out_is_what_reading_from_left_to_right_gives(text: str) -> None:
    from naive_model import written_out

    assert "|".join(layout_parts(text)) == written_out(text)


@pytest.mark.parametrize("text", ["Et*300000L", "((t)*2)*3", "t*", "E t", "(t"])
def test_other_texts_are_no_layouts(text: str) -> None:
    with pytest.raises(ValueError, match="letters"):
        layout_parts(text)


def test_sizes_of_parts_add_up() -> None:
    for changes in ({FIRST: 4, LAST: 1}, {LAST: 1}, {FIRST: 16}, {}):
        row = small(**DEEPSEEK, **changes).row(0, named=True)
        assert sum(part_sizes(row)) == 61
        assert sum(map(sum, held(**DEEPSEEK, **changes))) == 61
