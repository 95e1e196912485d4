"""Files to import, put into folders."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foreign_files import FILES
from public_configs import CONFIGS, OTHERS

ALL = CONFIGS | OTHERS


def config_file(folder: Path, config: Mapping[str, Any]) -> str:
    file = folder / "config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    return str(file)


def written(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).write_text(FILES[name], encoding="utf-8")
    return [str(folder / name) for name in names]
