"""Writes `docs/reference/cli.md` from the command line itself: `python docs/cli_page.py`."""

from __future__ import annotations

from pathlib import Path

from typer import Typer
from typer.testing import CliRunner

from manynet.cli import app

PAGE = Path(__file__).parent / "reference" / "cli.md"

INTRODUCTION = """\
# Command line

<!-- Written by docs/cli_page.py; `make cli-page` renews it after a change. -->

`manynet run` does everything; the other verbs do it step by step, each picking up what the one
before left in the run's folder.

```bash
manynet run                     # digits and a small network
manynet run --model torchvision:resnet18 --data path/to/images --budget latency_ms=4
manynet run config.yaml         # the keys are those of the config page
manynet run runs/digits-1       # goes on with a run that was stopped
```

```bash
manynet train --data digits --out runs/mine
manynet search runs/mine
manynet extract runs/mine --name small --budget macs=200k
manynet export runs/mine --name small --format onnx
manynet report runs/mine
```

| exit code | means |
|---|---|
| 0 | done |
| 1 | an error, told in one line |
| 2 | no member satisfies the budget; the nearest one is named |
| 130 | interrupted; the line says how to go on |

The [config](config.md) lists the keys that `--set` takes.
"""


def page() -> str:
    """Return the page as it should be."""
    return "\n".join([INTRODUCTION, *map(section, [*verbs_of(app), *grouped()])])


def verbs_of(group: Typer) -> list[str]:
    return [command.name or command.callback.__name__ for command in group.registered_commands]


def grouped() -> list[str]:
    """Return the verbs of two words, such as `device serve`."""
    groups = [(found.name, found.typer_instance) for found in app.registered_groups]
    return [f"{name} {verb}" for name, group in groups for verb in verbs_of(group)]


def section(verb: str) -> str:
    """Return what the page says of one verb: its own help."""
    plain = {"COLUMNS": "88", "TERMINAL_WIDTH": "88", "NO_COLOR": "1"}
    help_text = (
        CliRunner().invoke(app, [*verb.split(), "--help"], prog_name="manynet", env=plain).output
    )
    return f"## manynet {verb}\n\n```text\n{help_text.strip()}\n```\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
