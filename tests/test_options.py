"""docs/options.md says of every option whether it is modelled."""

import re
from pathlib import Path

from moesweep.study.keys import IN_BASE, KEYS
from moesweep.study.names import UNMODELLED


def test_every_option_is_listed_as_what_it_is(root: Path) -> None:
    text = (root / "docs/options.md").read_text(encoding="utf-8")
    modelled, missing = text.split("## Approximated")[0], text.split("## Not modelled")[1]
    named = set(re.findall(r"`(\w+)`", modelled))
    assert set(KEYS) - IN_BASE - named <= {
        *(
            "num_layers",
            "hidden_size",
            "ffn_hidden_size",
            "num_attention_heads",
            "num_query_groups",
            "vocab_size",
        )
    }
    assert set(re.findall(r"`(\w+)`", missing)) - {"m", "pipeline_model_parallel_layout"} == UNMODELLED
