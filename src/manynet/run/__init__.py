"""Run: from a network and its data to members that are ready to ship, in one call."""

from manynet.run._api import run, run_config
from manynet.run._events import Event, Tell, silent
from manynet.run._folder import cores, fresh_folder, is_run, saved_config
from manynet.run._launch import help_launched
from manynet.run._result import RunResult, Trained
from manynet.run._run import (
    export_verb,
    extract_verb,
    report_verb,
    search_verb,
    train_verb,
    trained_family,
)

__all__ = [
    "Event",
    "RunResult",
    "Tell",
    "Trained",
    "cores",
    "export_verb",
    "extract_verb",
    "fresh_folder",
    "help_launched",
    "is_run",
    "report_verb",
    "run",
    "run_config",
    "saved_config",
    "search_verb",
    "silent",
    "train_verb",
    "trained_family",
]
