"""Parameters, bytes and multiply-accumulates, counted layer by layer on the meta device."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from manynet._inputs import Example, Inputs, evaluating, positional, shapes, tensors_in, with_batch
from manynet.bindings.stored import entry_bits, stored_bytes
from manynet.errors import InputError

__all__ = ["KINDS", "LayerCost", "by_layer", "unique_tensors"]

aten = torch.ops.aten
# How a layer's products are computed: convolutions over a window, at single points and in groups
# (depthwise too), matrix products; `other` has no products.
KINDS = ("spatial", "pointwise", "grouped", "product", "other")
_FLOAT_BITS = 32


@dataclass(frozen=True)
class LayerCost:
    """What one module of a network costs, without its children.

    Args:
        path: its name in the network; empty for the network itself.
        type: the name of its class.
        kind: how most of its products are computed, one of `spatial`, `pointwise` and `grouped`
            convolution, `product` of matrices, and `other` if it computes none.
        parameters: numbers in its own parameters; a shared tensor counts where it stands first.
        bytes: bytes of its own parameters and buffers in a file; shared tensors count once, and
            quantized ones as packed integers.
        macs: multiply-accumulates of all its calls in one forward pass.
        read: bytes of the tensors that it is called with.
        written: bytes of the tensors that it returns.
        output_shape: shape of the first tensor that it returned; empty if it was not called.
        bit_operations: its multiply-accumulates, times the bits of its weight, times those of its
            inputs; 32 where they are not quantized.
    """

    path: str
    type: str
    kind: str
    parameters: int
    bytes: int
    macs: int
    read: int
    written: int
    output_shape: tuple[int, ...]
    bit_operations: int = 0


def by_layer(
    member: nn.Module, example_inputs: Example, *, per_sample: bool = True
) -> list[LayerCost]:
    """Return what each module costs, in the order of the network's modules.

    Convolutions, linear layers, matrix products and attention are counted, wherever they stand,
    and belong to the innermost module around them. Element-wise work, normalization, pooling,
    look-ups and gathering are not: they are no multiply-accumulates. Nothing is computed: the
    forward pass runs on the meta device, or, where the network's code forbids that, once on its own
    device. Modules without tensors, products or calls of their own are left out.

    Args:
        member: the network; its weights, statistics and mode stay as they are.
        example_inputs: inputs that fit it.
        per_sample: count one sample of the batch; otherwise the inputs as they are.

    Raises:
        InputError: the inputs do not fit the network.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2, bias=False))
        >>> for layer in by_layer(net, torch.zeros(5, 4)):
        ...     print(layer.path, layer.type, layer.parameters, layer.macs, layer.output_shape)
        0 Linear 40 32 (1, 8)
        1 ReLU 0 0 (1, 8)
        2 Linear 16 16 (1, 2)
    """
    inputs = positional(member, example_inputs)
    counter = _forward_counted(member, with_batch(inputs, 1) if per_sample else inputs)
    owned = _owned_tensors(member)
    layers = [
        _layer_cost(path, module, owned[path], counter.calls.get(path, _Calls()))
        for path, module in member.named_modules()
    ]
    return [layer for layer in layers if layer.bytes or layer.macs or layer.written]


def unique_tensors(member: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of parameters and saved buffers, each shared tensor once.

    Two tensors are one if they are the same object or show the same elements of one storage.
    """
    for path, tensors in _owned_tensors(member).items():
        yield from ((f"{path}.{name}" if path else name, tensor) for name, tensor in tensors)


def _owned_tensors(member: nn.Module) -> dict[str, list[tuple[str, Tensor]]]:
    """Return the parameters and saved buffers by the module where each stands first."""
    seen: set[object] = set()
    owned: dict[str, list[tuple[str, Tensor]]] = {}
    for path, module in member.named_modules():
        owned[path] = []
        own = {**module._parameters, **_saved_buffers(module)}
        for name, tensor in own.items():
            if tensor is None or _identity(tensor) in seen:
                continue
            seen.add(_identity(tensor))
            owned[path].append((name, tensor))
    return owned


def _saved_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """Return the buffers that go into a file."""
    skipped = module._non_persistent_buffers_set
    return {name: buffer for name, buffer in module._buffers.items() if name not in skipped}


def _identity(tensor: Tensor) -> object:
    """Return a key that is equal for tensors that show the same elements."""
    if tensor.device.type == "meta" or tensor.numel() == 0:
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _layer_cost(
    path: str, module: nn.Module, owned: list[tuple[str, Tensor]], calls: _Calls
) -> LayerCost:
    """Put together what is known of one module."""
    own = [tensor for _, tensor in owned]
    leaf = next(module.children(), None) is None
    macs = sum(calls.macs.values())
    return LayerCost(
        path=path,
        type=type(module).__name__,
        kind=max(calls.macs, key=calls.macs.__getitem__, default="other"),
        parameters=sum(tensor.numel() for tensor in own if isinstance(tensor, nn.Parameter)),
        bytes=sum(map(stored_bytes, own)),
        macs=macs,
        read=calls.read if leaf else 0,
        written=calls.written if leaf else 0,
        output_shape=calls.output_shape,
        bit_operations=macs * _bits_of_products(module) if macs else 0,
    )


def _bits_of_products(module: nn.Module) -> int:
    """Return the bits of a module's weight times those of its inputs."""
    weight = module._parameters.get("weight")
    inputs = getattr(module._modules.get("input_quantizer"), "bits", _FLOAT_BITS)
    return (_FLOAT_BITS if weight is None else entry_bits(weight)) * min(inputs, _FLOAT_BITS)


@dataclass
class _Calls:
    """What the calls of one module added up to."""

    macs: dict[str, int] = field(default_factory=dict)
    read: int = 0
    written: int = 0
    output_shape: tuple[int, ...] = ()


@dataclass
class _Counter:
    """Watches a forward pass: which module runs, and which products it computes."""

    calls: dict[str, _Calls] = field(default_factory=dict)
    stack: list[str] = field(default_factory=lambda: [""])

    def add(self, kind: str, macs: int) -> None:
        """Count products for the module that runs now."""
        found = self.calls.setdefault(self.stack[-1], _Calls()).macs
        found[kind] = found.get(kind, 0) + macs

    @contextlib.contextmanager
    def watching(self, member: nn.Module) -> Iterator[None]:
        """Follow the calls of all modules for a while."""
        handles = []
        for path, module in member.named_modules():
            handles.append(module.register_forward_pre_hook(self._enter(path), prepend=True))
            handles.append(module.register_forward_hook(self._leave(path)))
        try:
            with _Products(self.add):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, path: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            self.stack.append(path)
            self.calls.setdefault(path, _Calls()).read += _bytes_of(args)

        return hook

    def _leave(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, outputs: Any) -> None:
            self.stack.pop()
            calls, found = self.calls[path], tensors_in(outputs)
            calls.written += _bytes_of(outputs)
            calls.output_shape = tuple(found[0].shape) if found else ()

        return hook


def _bytes_of(values: object) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(values))


class _Products(TorchDispatchMode):
    """Reports the multiply-accumulates of every operation that runs inside."""

    def __init__(self, add: Callable[[str, int], None]) -> None:
        from torch.utils.flop_counter import flop_registry  # it brings Triton, which takes long

        super().__init__()  # type: ignore[no-untyped-call] # PyTorch's own
        self._add = add
        self._flops: Mapping[Any, Callable[..., int]] = flop_registry

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        known = _known_result(packet, args)
        out = func(*args, **kwargs) if known is None else known
        if packet in self._flops:  # two operations for each multiply-accumulate
            flops = int(self._flops[packet](*args, **kwargs, out_val=out))
            self._add(_kind(packet, args), flops // 2)
        elif packet in _MORE:
            self._add("product", _MORE[packet](*args))
        return out


# Results like the first argument. PyTorch works these shapes out in Python, 20 times as slowly.
_UNARY = ("relu", "silu", "gelu", "hardswish", "hardsigmoid", "hardtanh", "sigmoid", "tanh")
_BINARY = ("add", "sub", "mul")
_LIKE_INPUT = frozenset(getattr(aten, name) for name in _UNARY + _BINARY)
_IN_PLACE = frozenset(getattr(aten, f"{name}_") for name in _UNARY + _BINARY)


def _known_result(packet: Any, args: tuple[Any, ...]) -> Any:
    """Return the result of the commonest operations on the meta device, or None."""
    first = args[0] if args else None
    if not isinstance(first, Tensor) or first.device.type != "meta":
        return None
    if packet in _IN_PLACE:
        return first
    if packet is aten.native_batch_norm:
        return torch.empty_like(first), first.new_empty(0), first.new_empty(0)
    if packet in _LIKE_INPUT and first.is_floating_point() and _same_kind(first, args[1:]):
        return torch.empty_like(first)
    return None


def _same_kind(first: Tensor, others: tuple[Any, ...]) -> bool:
    """Whether the other tensors have the shape and type of the first."""
    return all(
        other.shape == first.shape and other.dtype == first.dtype
        for other in others
        if isinstance(other, Tensor)
    ) and not any(isinstance(other, complex) for other in others)


def _kind(packet: Any, args: tuple[Any, ...]) -> str:
    """Return the kind of an operation that multiplies."""
    if "conv" not in packet.__name__:
        return "product"
    weight, groups = args[1], args[-1] if packet is aten.convolution else 1
    if groups > 1:
        return "grouped"
    return "pointwise" if prod(weight.shape[2:]) == 1 else "spatial"


def _attention_macs(query: Tensor, key: Tensor, value: Tensor, *_: object) -> int:
    from torch.utils.flop_counter import sdpa_flop_count

    return int(sdpa_flop_count(query.shape, key.shape, value.shape)) // 2


# What PyTorch's own table leaves out.
_MORE: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention_macs,
    aten.mv: lambda matrix, vector: matrix.numel(),
    aten.addmv: lambda bias, matrix, vector: matrix.numel(),
    aten.dot: lambda a, b: a.numel(),
    aten.addbmm: lambda bias, a, b: prod(a.shape) * b.shape[-1],
    aten._int_mm: lambda a, b: prod(a.shape) * b.shape[-1],
}


def _forward_counted(member: nn.Module, inputs: Inputs) -> _Counter:
    """Run one forward pass under a counter, without computing anything where that can be."""
    with evaluating(member), torch.no_grad():
        counter = _Counter()
        with contextlib.suppress(Exception), counter.watching(member):
            torch.func.functional_call(member, _on_meta(member), _meta_inputs(inputs))
            return counter
        counter = _Counter()
        try:
            with _plain_kernels(), counter.watching(member):
                member(*inputs)
        except Exception as error:
            raise InputError(
                f"{type(member).__name__} cannot run on inputs of shape {shapes(inputs)}: "
                f"{str(error).splitlines()[0] if str(error) else type(error).__name__}; "
                "give inputs that fit, or per_sample=False where the first dimension is no batch"
            ) from error
    return counter


def _on_meta(member: nn.Module) -> dict[str, Tensor]:
    """Return stand-ins without storage for all tensors of a network; ties stay ties."""
    tensors = [*member.named_parameters(), *member.named_buffers()]
    return {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}


def _meta_inputs(inputs: Inputs) -> Inputs:
    return tuple(v.to("meta") if isinstance(v, Tensor) else v for v in inputs)


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """Turn fused kernels off for a while, so that the products inside them can be seen."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            warnings.catch_warnings(action="ignore", category=UserWarning),  # of TF32 on Intel GPUs
            torch.backends.mkldnn.flags(enabled=False),
            torch.backends.cudnn.flags(enabled=False),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
