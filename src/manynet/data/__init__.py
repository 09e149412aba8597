"""Data by name: built-in sets, folders, tables and the user's own functions, as plain data sets.

`load_data` returns a `Data`: three data sets and what a network must know about them. Everything
that fits is held in memory as tensors (images as bytes), because a sample at a time is what makes
small networks slow to train; `batches` serves whole batches of any data set in any order.

Letters of shapes: `B` batch, `C` channels, `H` height, `W` width, `N` samples.

Example:
    >>> from manynet.data import load_data
    >>> digits = load_data("digits")
    >>> digits.input_shape, len(digits.classes)
    ((1, 8, 8), 10)
"""

from manynet.data._augment import crop_and_flip
from manynet.data._batches import Batch, Inputs, batches, collate_batches, taker, to_device
from manynet.data._characters import Characters
from manynet.data._data import Data, Images, Samples
from manynet.data._graph_table import LINKS, OPERATIONS, canonical_graph, nas_bench_graph
from manynet.data._load import load_data
from manynet.data._local import local_data
from manynet.data._molecules import Molecules, read_molecules
from manynet.data._pairs import sentence_pairs
from manynet.data._permute import permuted
from manynet.data._text import IGNORED, LabeledTexts, MaskedTokens, TextData, Tokenizer
from manynet.data._user import load_function

__all__ = [
    "IGNORED",
    "LINKS",
    "OPERATIONS",
    "Batch",
    "Characters",
    "Data",
    "Images",
    "Inputs",
    "LabeledTexts",
    "MaskedTokens",
    "Molecules",
    "Samples",
    "TextData",
    "Tokenizer",
    "batches",
    "canonical_graph",
    "collate_batches",
    "crop_and_flip",
    "load_data",
    "load_function",
    "local_data",
    "nas_bench_graph",
    "permuted",
    "read_molecules",
    "sentence_pairs",
    "taker",
    "to_device",
]
