"""Which attributes of a module follow which dimensions of its parameters.

The attributes of a user's own modules are found by watching what they size. An adapter says it for
a module whose inside cannot be watched, or whose attributes only describe its parameters, as those
of PyTorch's own layers do. Add one for a module of your own with `adapter`, in your own file:

    @adapter(MyLayer, attributes=("width",))
    def _my_layer(module, site):
        return {"width": site.dim("weight", 0)}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from manynet.elastic._axes import Extent, extent, freeze, regroup, size_of, unify
from manynet.elastic._record import Record

__all__ = ["ADAPTERS", "Adapter", "Follows", "Site", "adapter", "adapter_of"]


@dataclass(frozen=True, slots=True)
class Site:
    """The dimensions of one module's own tensors, and what may be said about them."""

    module: nn.Module
    record: Record

    def dim(self, tensor: str, axis: int) -> Extent | None:
        """Return a dimension of a parameter or buffer, or None where the module has none so called.

        A tensor that a parametrization computes, such as a normalized weight, has dimensions too.

        Args:
            tensor: the parameter's or buffer's name in the module.
            axis: which of its dimensions.
        """
        found = self.module._parameters.get(tensor, self.module._buffers.get(tensor))
        if found is None and "parametrizations" in self.module._modules:
            computed = self.module.parametrizations
            assert isinstance(computed, nn.ModuleDict)
            if tensor in computed:
                found = self.record.computed.get(id(computed[tensor]))
        return None if found is None else self.record.dims(found)[axis]

    def tie(self, left: Extent | None, right: Extent | None) -> None:
        """Make two dimensions the same axes; nothing happens where one is missing."""
        if left is not None and right is not None:
            unify(left, right)

    def freeze(self, dim: Extent | None, reason: str) -> None:
        """Keep a dimension whole in every member."""
        if dim is not None:
            freeze(dim, reason)

    def new(self, size: int, frozen: str | None = None) -> Extent:
        """Return a new axis, frozen where a reason is given."""
        return extent(size, frozen)

    def split(self, dim: Extent | None, outer: int) -> tuple[Extent, Extent] | None:
        """Split a dimension into `outer` groups and the positions of each.

        Returns:
            The two factors, or None where the dimension is missing or does not factor so.
        """
        if dim is None:
            return None
        factors = regroup([dim], [outer, size_of(dim) // outer])
        return None if factors is None else (factors[0], factors[1])


Follows = Mapping[str, Extent | None]
"""An attribute's name to the dimension that it has the size of; None where it follows none."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a module type's attributes follow.

    Args:
        function: called with a module and its site after the network has run.
        attributes: the names that it may return.
        watched: whether the attributes are watched during the run too.
    """

    function: Callable[[nn.Module, Site], Follows]
    attributes: tuple[str, ...]
    watched: bool


ADAPTERS: dict[type[nn.Module], Adapter] = {}
"""The adapter of each module type; a subclass has that of its nearest base."""


def adapter(
    *types: type[nn.Module], attributes: tuple[str, ...], watched: bool = True
) -> Callable[[Callable[..., Follows]], Callable[..., Follows]]:
    """Register what the attributes of a module type follow.

    Args:
        types: the module types; their subclasses follow, unless they have an adapter of their own.
        attributes: the names that the function may return.
        watched: whether to watch the attributes while the network runs as well. Say False for a
            layer that only hands them on, which makes the trace faster.

    Returns:
        A decorator for a function of a module and its `Site` that returns attribute names and the
        dimensions that they follow.

    Example:
        >>> from torch import nn
        >>> class Scale(nn.Module): ...
        >>> @adapter(Scale, attributes=("width",))
        ... def scale(module, site):
        ...     return {"width": site.dim("weight", 0)}
        >>> adapter_of(Scale()).attributes
        ('width',)
    """

    def register(function: Callable[..., Follows]) -> Callable[..., Follows]:
        for module_type in types:
            ADAPTERS[module_type] = Adapter(function, attributes, watched)
        return function

    return register


def adapter_of(module: nn.Module) -> Adapter | None:
    """Return the adapter of a module's type or of its nearest base that has one."""
    for base in type(module).__mro__:
        if base in ADAPTERS:
            return ADAPTERS[base]
    return None


@adapter(nn.Linear, attributes=("in_features", "out_features"), watched=False)
def _linear(module: nn.Linear, site: Site) -> Follows:
    return {"in_features": site.dim("weight", 1), "out_features": site.dim("weight", 0)}


@adapter(nn.Bilinear, attributes=(), watched=False)
def _bilinear(module: nn.Bilinear, site: Site) -> Follows:
    return {}


@adapter(
    nn.Conv1d, nn.Conv2d, nn.Conv3d, attributes=("in_channels", "out_channels", "groups"),
    watched=False,
)  # fmt: skip
def _convolution(module: nn.Conv2d, site: Site) -> Follows:
    rows, columns = site.dim("weight", 0), site.dim("weight", 1)
    split = site.split(rows, module.groups)
    if rows is None or columns is None or split is None:
        return {}
    return {"groups": split[0], "in_channels": (*split[0], *columns), "out_channels": rows}


@adapter(
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    attributes=("in_channels", "out_channels", "groups"),
    watched=False,
)
def _transposed(module: nn.ConvTranspose2d, site: Site) -> Follows:
    rows, columns = site.dim("weight", 0), site.dim("weight", 1)
    split = site.split(rows, module.groups)
    if rows is None or columns is None or split is None:
        return {}
    return {"groups": split[0], "in_channels": rows, "out_channels": (*split[0], *columns)}


@adapter(nn.modules.batchnorm._NormBase, attributes=("num_features",), watched=False)
def _batch_norm(module: nn.BatchNorm2d, site: Site) -> Follows:
    weight = site.dim("weight", 0)
    return {"num_features": site.dim("running_mean", 0) if weight is None else weight}


for _norm in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
    ADAPTERS[_norm] = ADAPTERS[nn.modules.batchnorm._NormBase]


@adapter(nn.GroupNorm, attributes=("num_channels", "num_groups"), watched=False)
def _group_norm(module: nn.GroupNorm, site: Site) -> Follows:
    channels = site.dim("weight", 0)
    each = module.num_groups == module.num_channels
    return {"num_channels": channels, "num_groups": channels if each else None}


@adapter(nn.Embedding, attributes=("embedding_dim",), watched=False)
def _embedding(module: nn.Embedding, site: Site) -> Follows:
    return {"embedding_dim": site.dim("weight", 1)}


@adapter(nn.PReLU, attributes=("num_parameters",), watched=False)
def _prelu(module: nn.PReLU, site: Site) -> Follows:
    return {"num_parameters": site.dim("weight", 0)}


@adapter(nn.MultiheadAttention, attributes=("embed_dim", "kdim", "vdim", "num_heads", "head_dim"))
def _multihead_attention(module: nn.MultiheadAttention, site: Site) -> Follows:
    heads, each = site.new(int(module.num_heads)), site.new(int(module.head_dim))
    inner = (*heads, *each)
    projection = site.record.dims(module.out_proj.weight)
    site.tie(projection[1], inner)
    site.tie(projection[0], inner)
    site.tie(site.dim("in_proj_weight", 1), inner)
    site.tie(site.dim("in_proj_weight", 0), (*site.new(3, "query, key, value"), *inner))
    site.tie(site.dim("q_proj_weight", 1), inner)
    for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        site.tie(site.dim(name, 0), inner)
    for name in ("bias_k", "bias_v"):
        site.tie(site.dim(name, 2), inner)
    fused = module.in_proj_weight is not None
    return {
        "embed_dim": inner,
        "kdim": inner if fused else site.dim("k_proj_weight", 1),
        "vdim": inner if fused else site.dim("v_proj_weight", 1),
        "num_heads": heads,
        "head_dim": each,
    }


@adapter(nn.RNNBase, attributes=("input_size", "hidden_size", "proj_size"))
def _recurrent(module: nn.RNNBase, site: Site) -> Follows:
    emitted = site.dim("weight_hh_l0", 1)
    if module.proj_size > 0:
        hidden = site.dim("weight_hr_l0", 1)
        return {
            "input_size": site.dim("weight_ih_l0", 1),
            "hidden_size": hidden,
            "proj_size": emitted,
        }
    return {"input_size": site.dim("weight_ih_l0", 1), "hidden_size": emitted}


@adapter(nn.RNNCellBase, attributes=("input_size", "hidden_size"))
def _recurrent_cell(module: nn.RNNCellBase, site: Site) -> Follows:
    gates = {nn.LSTMCell: 4, nn.GRUCell: 3}.get(type(module), 1)
    hidden = site.dim("weight_hh", 1)
    if hidden is not None:
        rows = (*site.new(gates, "gates"), *hidden)
        site.tie(site.dim("weight_ih", 0), rows)
        site.tie(site.dim("weight_hh", 0), rows)
    return {"input_size": site.dim("weight_ih", 1), "hidden_size": hidden}


def integers(module: nn.Module) -> dict[str, int | list[int] | tuple[int, ...]]:
    """Return the attributes of a module that are sizes: integers above 1, lists, tuples of them."""
    own = ADAPTERS.get(type(module))
    if own is not None and not own.watched:
        return {}
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training" and _is_size(value)
    }


def _is_size(value: object) -> bool:
    if type(value) is int:
        return value > 1
    if type(value) in (list, tuple):
        assert isinstance(value, (list, tuple))
        return len(value) > 0 and all(type(item) is int and item > 0 for item in value)
    return False
