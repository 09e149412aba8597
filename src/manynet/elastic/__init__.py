"""From an existing model to a family: what hangs together, in which order, and what to cut."""

from manynet.elastic.convert import elastic as elastic
from manynet.elastic.importance import BlockImportance as BlockImportance
from manynet.elastic.importance import Gates as Gates
from manynet.elastic.importance import Importance as Importance
from manynet.elastic.importance import JointImportance as JointImportance
from manynet.elastic.importance import KnownImportance as KnownImportance
from manynet.elastic.importance import depth_importances as depth_importances
from manynet.elastic.importance import importances as importances
from manynet.elastic.precision import InputQuantizer as InputQuantizer
from manynet.elastic.precision import add_input_quantizers as add_input_quantizers
from manynet.elastic.precision import elastic_bits as elastic_bits
from manynet.elastic.removal import remove_blocks as remove_blocks

__all__ = [
    "BlockImportance",
    "Gates",
    "Importance",
    "InputQuantizer",
    "JointImportance",
    "KnownImportance",
    "add_input_quantizers",
    "depth_importances",
    "elastic",
    "elastic_bits",
    "importances",
    "remove_blocks",
]
