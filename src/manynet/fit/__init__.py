"""Trained weights put into shared ones, in closed form: nothing here is trained."""

from manynet.fit._allocate import Curve as Curve
from manynet.fit._allocate import allocate as allocate
from manynet.fit._factor import Atoms as Atoms
from manynet.fit._factor import matrix_pca as matrix_pca
from manynet.fit._factor import root_of as root_of
from manynet.fit._factor import whitened_low_rank as whitened_low_rank
from manynet.fit._fit import fit_dictionary as fit_dictionary
from manynet.fit._fit import fit_low_rank as fit_low_rank
from manynet.fit._gptq import gptq as gptq
from manynet.fit._low_bit import average_bits as average_bits
from manynet.fit._low_bit import bit_sizes as bit_sizes
from manynet.fit._low_bit import fit_low_bit as fit_low_bit
from manynet.fit._low_bit import reset_adapters as reset_adapters
from manynet.fit._low_bit import weight_rises as weight_rises
from manynet.fit._sites import blocks_of as blocks_of
from manynet.fit._sites import embedding_parameters as embedding_parameters
from manynet.fit._sites import projections as projections
from manynet.fit._watch import drift as drift
from manynet.fit._watch import input_grams as input_grams
from manynet.fit._watch import runs as runs

__all__ = [
    "Atoms",
    "Curve",
    "allocate",
    "average_bits",
    "bit_sizes",
    "blocks_of",
    "drift",
    "embedding_parameters",
    "fit_dictionary",
    "fit_low_bit",
    "fit_low_rank",
    "gptq",
    "input_grams",
    "matrix_pca",
    "projections",
    "reset_adapters",
    "root_of",
    "runs",
    "weight_rises",
    "whitened_low_rank",
]
