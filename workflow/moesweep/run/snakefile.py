"""What the Snakefile asks for: the plan of what Snakemake was told, or what is wrong with it.

What Snakemake calls its configuration is config/config.yaml, with what --configfile and --config say instead;
or, where another workflow imports this one as a module with `config:`, what that gives and no file.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moesweep.edge.line_numbers import numbered
from moesweep.edge.problems import BadInput, Problem
from moesweep.edge.yaml_reader import read_yaml
from moesweep.run.plan import Plan, load_plan
from moesweep.store.tablefile import whole
from moesweep.study.configured import DEFAULT_FILE, NO_FILE, Configuration


def has_configuration() -> bool:
    """Say whether there is a configuration file for `configfile:`; leave with exit code 2 if it is no YAML.

    Snakemake reads it too, but would end with a traceback, or never.
    """
    with _or_exit():
        if Path(DEFAULT_FILE).exists():
            read_yaml(Path(DEFAULT_FILE))
            return True
    return False


def planned(workflow: Any, config: Mapping[str, Any]) -> Plan:
    """Return the plan of a Snakefile's `workflow` and `config`; leave with exit code 2 if there is none.

    The process that users start, and no job of it, also makes ready for the jobs: an index that names a part
    which is not there is removed, so that the part is made again, and the resolved workloads are written.
    """
    with _or_exit():
        _refuse_prefix(workflow)
        plan = load_plan(configuration(workflow, config))
        if workflow.is_main_process:
            for index, part in plan.incomplete().items():
                print(f"{part}: is gone; {index} removed, for it to be made again", file=sys.stderr)
                index.unlink()
            if not plan.resolved.exists():
                with whole(plan.resolved) as partial:
                    plan.chunked.write_parquet(partial)
        return plan


@contextmanager
def _or_exit() -> Iterator[None]:
    """Print every problem that the block finds, one a line, and leave."""
    try:
        yield
    except BadInput as error:
        print(*numbered(error.problems), sep="\n", file=sys.stderr)
        sys.exit(2)


def configuration(workflow: Any, config: Mapping[str, Any]) -> Configuration:
    """Return the configuration that Snakemake was told, with the place where each key is said."""
    if workflow.modifier.skip_configfile:
        places = {key: ("", f"module config: {key}") for key in config}
        return Configuration(file=NO_FILE, settings=dict(config), said_at=places)
    told = workflow.config_settings
    settings = dict(told.overwrite_config)
    places = {key: _place(key, told) for key in settings}
    read = Path(DEFAULT_FILE).exists() and not (told.replace_workflow_config and settings)
    return Configuration(Path(), DEFAULT_FILE if read or not settings else NO_FILE, settings, places)


def _place(key: str, told: Any) -> tuple[str, str]:
    """Where a key is said last: on the command line, or in which file of --configfile."""
    if key in told.config:
        return "", f"--config {key}"
    files = [file for file in told.configfiles if key in (read_yaml(file, str(file)) or {})]
    return _shown(files[-1]) if files else "", key


def _shown(file: Path) -> str:
    here = Path.cwd()
    return str(file.relative_to(here)) if file.is_relative_to(here) else str(file)


def _refuse_prefix(workflow: Any) -> None:
    """Raise BadInput for `prefix:` and `replace_prefix:` of a module: they move files, not the commands."""
    modifier = workflow.modifier.path_modifier
    if modifier.prefix is not None or modifier._prefix_replacements is not None:
        message = "the commands would not know of it"
        advice = 'name the folder of the results: config: {"results": "FOLDER", ...}'
        raise BadInput([Problem("", "module prefix", "not_supported", "", message, advice)])
