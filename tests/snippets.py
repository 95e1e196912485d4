"""What README and docs show in blocks: lines to type, and everything else."""

import re
import subprocess
from dataclasses import dataclass

from project import CHECKOUT, Project

PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^ *```(\S*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+")
TYPED = re.compile(
    r"(?:\$ )?((?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?(?:moesweep|snakemake|make|python|uv|pip|npm) .*)"
)
PROMPT = "$ "


@dataclass(frozen=True)
class Block:
    """A block of a page: `language` is what its fence says, if it has one."""

    page: str
    language: str
    text: str

    @property
    def typed(self) -> list[str]:
        """The lines that a reader types, without remarks; of a block with a prompt those behind it."""
        if self.language:
            return []
        lines = re.sub(r"\\\n *", "", self.text).splitlines()
        if any(line.startswith(PROMPT) for line in lines):
            lines = [line for line in lines if line.startswith(PROMPT)]
        found = [TYPED.fullmatch(line) for line in lines]
        return [re.sub(r" +# .*", "", match[1]).strip() for match in found if match]


def blocks() -> list[Block]:
    """Return every block of README and docs, fenced or indented."""
    found = []
    for page in PAGES:
        name, text = str(page.relative_to(CHECKOUT)), page.read_text(encoding="utf-8")
        found += [Block(name, match[1], match[2]) for match in FENCED.finditer(text)]
        for match in INDENTED.findall(FENCED.sub("", text)):
            found.append(Block(name, "", re.sub(r"^ {4}", "", match, flags=re.MULTILINE).strip("\n")))
    return found


def pasted(project: Project, page: str, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of a page, which must succeed, in a project as it stands there."""
    assert line in {each for block in blocks() if block.page == page for each in block.typed}, line
    # A project has no environment of its own.
    done = project.call("bash", "-c", line, BIN=str(project.bin), READY="")
    assert done.returncode == 0, done.stderr
    return done
