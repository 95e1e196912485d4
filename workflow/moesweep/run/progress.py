"""A run's progress on stderr: a line a stage, with a bar in a terminal. A logger plugin of Snakemake.

`register` makes it known to Snakemake under NAME; `--logger NAME` then shows it instead of Snakemake's own
lines, which the file under .snakemake/log keeps.
"""

import shutil
import sys
import threading
import time
from collections import Counter
from logging import WARNING, LogRecord
from typing import Any

from snakemake.common import NOTHING_TO_BE_DONE_MSG  # type: ignore[import-untyped]
from snakemake.logging import DefaultFormatter  # type: ignore[import-untyped]
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent, logger_plugin_module_prefix
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

from moesweep.edge.said import CLEARED
from moesweep.run.elapsed import elapsed

NAME = "moesweep"

WIDTH = 24
"""Characters of a bar."""

TICK_SECONDS = 0.5

_NO_STAGE = ("all", "traces", "total")
"""Rules that make nothing, and Snakemake's sum."""


def register() -> None:
    """Make this handler known to Snakemake; it finds plugins by the names of packages alone otherwise."""
    LoggerPluginRegistry().register_plugin(logger_plugin_module_prefix + NAME, sys.modules[__name__])


class LogHandler(LogHandlerBase):
    """Shows the stages of a run: jobs done and to do, and the seconds since the stage's first job started."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        """Begin with nothing known; in a terminal a thread moves the clock."""
        self._live = sys.stderr.isatty()
        self._formatter = DefaultFormatter(show_failed_logs=self.common_settings.show_failed_logs)
        self._jobs: dict[int, str] = {}
        self._total: Counter[str] = Counter()
        self._done: Counter[str] = Counter()
        self._since: dict[str, float] = {}
        self._ended = threading.Event()
        if self._live:
            threading.Thread(target=self._tick, daemon=True).start()

    def emit(self, record: LogRecord) -> None:
        """Count what an event says; pass on what went wrong."""
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            self._total = Counter({name: jobs for name, jobs in _stats(record) if name not in _NO_STAGE})
        elif event == LogEvent.JOB_INFO:
            self._start(record)
        elif event == LogEvent.JOB_FINISHED:
            self._finish(self._jobs.get(_number(record, "job_id"), ""))
        elif event == LogEvent.JOB_ERROR:
            self._say(f"{_named(record)} failed")
        # Of a group of jobs this text alone says why: what SLURM did to it.
        elif record.levelno >= WARNING or str(record.msg).startswith(NOTHING_TO_BE_DONE_MSG):
            self._say(str(self._formatter.format(record)).strip())
        self._draw()

    def close(self) -> None:
        """Leave no half line behind."""
        self._ended.set()
        if self._live:
            sys.stderr.write(CLEARED)
            sys.stderr.flush()
        super().close()

    def _start(self, record: LogRecord) -> None:
        stage = _named(record)
        self._jobs[_number(record, "jobid")] = stage
        if stage not in _NO_STAGE:
            self._since.setdefault(stage, time.monotonic())

    def _finish(self, stage: str) -> None:
        if stage not in self._since:
            return
        self._done[stage] += 1
        if self._done[stage] == self._total[stage]:
            self._say(self._line(stage))
            del self._since[stage]

    def _line(self, stage: str) -> str:
        """Return `trace      ████████──────── 3/8  0:12`."""
        done, total = self._done[stage], max(self._total[stage], 1)
        full = WIDTH * done // total
        bar = "█" * full + "─" * (WIDTH - full)
        seconds = time.monotonic() - self._since[stage]
        return f"{stage:<9}  {bar}  {done}/{total}  {elapsed(seconds)}"

    def _say(self, text: str) -> None:
        if text:
            print(f"{CLEARED if self._live else ''}{text}", file=sys.stderr, flush=True)

    def _draw(self) -> None:
        """In a terminal show the stages at work in one line, which the next one overwrites."""
        if not self._live or self._ended.is_set():
            return
        at_work = "   ".join(map(self._line, list(self._since)))
        columns = shutil.get_terminal_size().columns - 1
        sys.stderr.write(f"{CLEARED}{at_work[:columns]}\r")
        sys.stderr.flush()

    def _tick(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            # Records are handled with the lock held.
            self.acquire()
            try:
                self._draw()
            finally:
                self.release()


def _stats(record: LogRecord) -> list[tuple[str, int]]:
    return list(getattr(record, "stats", {}).items())


def _named(record: LogRecord) -> str:
    return str(getattr(record, "rule_name", ""))


def _number(record: LogRecord, name: str) -> int:
    found: Any = getattr(record, name, -1)
    return int(found)
