"""Ready networks, networks by name, and families from their folders."""

from manynet.models.atomic import atomic_cnn as atomic_cnn
from manynet.models.atomic import fold_constants as fold_constants
from manynet.models.build import build as build
from manynet.models.cnn import mlp as mlp
from manynet.models.cnn import small_cnn as small_cnn
from manynet.models.conv_macro import conv_macro as conv_macro
from manynet.models.language import kind_of as kind_of
from manynet.models.language import language_model as language_model
from manynet.models.language import positions_of as positions_of
from manynet.models.language import tokenizer_of as tokenizer_of
from manynet.models.load import load as load
from manynet.models.lora import add_adapters as add_adapters
from manynet.models.lora import has_adapters as has_adapters
from manynet.models.lora import merge_adapters as merge_adapters
from manynet.models.lora import without_adapters as without_adapters
from manynet.models.mobile import mobile_cnn as mobile_cnn
from manynet.models.parallel import parallel_cnn as parallel_cnn
from manynet.models.small_gpt import small_gpt as small_gpt

__all__ = [
    "atomic_cnn",
    "build",
    "conv_macro",
    "load",
    "mlp",
    "mobile_cnn",
    "parallel_cnn",
    "small_cnn",
    "small_gpt",
]
