"""From an existing model to a family: what hangs together, in which order, and what to cut."""

from manynet.elastic.convert import elastic as elastic
from manynet.elastic.importance import BlockImportance as BlockImportance
from manynet.elastic.importance import Importance as Importance
from manynet.elastic.importance import depth_importances as depth_importances
from manynet.elastic.importance import importances as importances

__all__ = ["BlockImportance", "Importance", "depth_importances", "elastic", "importances"]
