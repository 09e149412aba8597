"""From an existing model to a family: what hangs together, in which order, and what to cut."""

from manynet.elastic._cut import Cutting as Cutting
from manynet.elastic._cut import axes_in as axes_in
from manynet.elastic._cut import compact as compact
from manynet.elastic._cut import cut as cut
from manynet.elastic._cut import cut_state as cut_state
from manynet.elastic._cut import dims_of as dims_of
from manynet.elastic._head import replace_head as replace_head
from manynet.elastic.attention import FreeMultiheadAttention as FreeMultiheadAttention
from manynet.elastic.convert import elastic as elastic
from manynet.elastic.freeing import frees as frees
from manynet.elastic.freeing import recast as recast
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
from manynet.elastic.precision import mean_bits as mean_bits
from manynet.elastic.precision import uniform_arch as uniform_arch
from manynet.elastic.removal import remove_blocks as remove_blocks

__all__ = [
    "BlockImportance",
    "Cutting",
    "FreeMultiheadAttention",
    "Gates",
    "Importance",
    "InputQuantizer",
    "JointImportance",
    "KnownImportance",
    "add_input_quantizers",
    "axes_in",
    "compact",
    "cut",
    "cut_state",
    "depth_importances",
    "dims_of",
    "elastic",
    "elastic_bits",
    "frees",
    "importances",
    "mean_bits",
    "recast",
    "remove_blocks",
    "replace_head",
    "uniform_arch",
]
