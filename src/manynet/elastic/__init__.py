"""From an existing model to a family: what hangs together, in which order, and what to cut."""

from manynet.elastic.convert import elastic as elastic
from manynet.elastic.importance import Importance as Importance
from manynet.elastic.importance import importances as importances

__all__ = ["Importance", "elastic", "importances"]
