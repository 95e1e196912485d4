"""The documentation as one site: every page is in it, no link leads nowhere, docstrings have their page."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_site_has_every_page_and_no_broken_link(root: Path, tmp_path: Path) -> None:
    docs, site = root / "docs", tmp_path / "site"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(tmp_path / "trees")]
    done = subprocess.run([*command, docs, site], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for page in docs.rglob("*.md"):
        assert (site / page.relative_to(docs)).with_suffix(".html").is_file()
    reference = (site / "api.html").read_text(encoding="utf-8")
    assert all(f'id="moesweep.library.{name}"' in reference for name in ("best", "predict", "screen", "read"))
