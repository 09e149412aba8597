"""What a worker needs to judge archs, as bytes and arrays that can lie in shared memory.

The family's tensors and the data of a metric become arrays that a worker reads where they lie.
Everything else is copied into the worker, which may write it.
"""

from __future__ import annotations

import importlib
import io
import pickle
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from manynet.family import Family
from manynet.search.metrics import BatchesOnce

__all__ = ["Opened", "Packed", "pack", "unpack"]

_Array: TypeAlias = NDArray[np.uint8]
_Layout: TypeAlias = tuple[torch.dtype, tuple[int, ...], tuple[int, ...]]
_Learns: TypeAlias = tuple[bool, bool, Mapping[str, Any]]
"""Whether it is a parameter, whether it has a gradient, and its attributes."""


@dataclass(frozen=True)
class Packed:
    """An object as a pickle, and the memory of its shared tensors beside it.

    Args:
        stream: the pickle.
        memories: what it names instead of holding it.
    """

    stream: _Array
    memories: tuple[_Array, ...]

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return self.stream.nbytes + sum(memory.nbytes for memory in self.memories)


@dataclass
class Opened:
    """What `unpack` returns: the object, and the tensors that others read too."""

    value: Any = None
    shared: list[Tensor] = field(default_factory=list)
    memories: tuple[_Array, ...] = ()

    def writes(self) -> int:
        """Return how often the shared tensors were written; it must stay as it is."""
        return sum(tensor._version for tensor in self.shared)


def pack(value: Any, shared: Iterable[Tensor], cloudpickle: Any) -> Packed:
    """Pickle an object; the memory of `shared` tensors stays outside.

    Args:
        value: what to pickle.
        shared: tensors that workers read and never write; those of a metric's data too.
        cloudpickle: the module that pickles functions.

    Raises:
        Exception: whatever pickling raises.
    """
    stream = io.BytesIO()
    memories = _Memories()
    memories.share(shared)
    with _ByValue(cloudpickle) as by_value:
        _pickler(cloudpickle)(stream, memories, by_value).dump(value)
    return Packed(np.frombuffer(stream.getvalue(), np.uint8), tuple(memories.outside))


def unpack(packed: Packed) -> Opened:
    """Return the object; its shared tensors lie on the memory of the arrays themselves."""
    opened = Opened(memories=packed.memories)
    _opening.append(opened)
    try:
        opened.value = pickle.loads(packed.stream.data)
    finally:
        _opening.pop()
    return opened


_opening: list[Opened] = []
"""What is being unpickled: the functions that pickle calls are handed nothing else."""


# -- writing -----------------------------------------------------------------------------------


class _Memories:
    """The memory behind tensors; what is shared stays out of the pickle, each piece once."""

    def __init__(self) -> None:
        self.outside: list[_Array] = []
        self._found: dict[tuple[str, int], _Memory] = {}
        self._shared: set[tuple[str, int]] = set()

    def share(self, tensors: Iterable[Tensor]) -> None:
        self._shared.update(_key(tensor) for tensor in tensors if not tensor.is_meta)

    def trimmed(self, tensor: Tensor) -> Tensor:
        """Return a copy of what is a small part of memory that is not shared, as a few samples."""
        whole = tensor.untyped_storage().nbytes()
        if _key(tensor) in self._shared or 2 * tensor.nbytes > whole:
            return tensor
        return tensor.detach().clone()

    def of(self, tensor: Tensor) -> _Memory:
        key = _key(tensor)
        if key not in self._found:
            memory = self._found[key] = _Memory(tensor.detach())
            if key in self._shared:
                memory.number = len(self.outside)
                self.outside.append(memory.array)
        return self._found[key]


class _Memory:
    """All of the memory that a tensor is a part of; with a number if it is kept outside."""

    def __init__(self, tensor: Tensor) -> None:
        self.storage = tensor.untyped_storage()  # held, so that its address stays its own
        whole = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(self.storage)
        self.array: _Array = whole.cpu().numpy()
        self.number: int | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _memory, (self.array.tobytes() if self.number is None else self.number,)


def _key(tensor: Tensor) -> tuple[str, int]:
    return str(tensor.device), tensor.untyped_storage().data_ptr()


def _pickler(cloudpickle: Any) -> Any:
    """Return the class that pickles tensors and families as this file wants it."""

    class Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]
        def __init__(
            self, stream: io.BytesIO, memories: _Memories, by_value: Callable[[object], None]
        ) -> None:
            super().__init__(stream, protocol=5)
            self._memories, self._by_value = memories, by_value

        def reducer_override(self, value: Any) -> Any:
            kind = type(value)
            if kind in (Tensor, nn.Parameter) and _is_plain(value):
                return self._reduced(value)
            if kind is Family:
                return _family, _parts_of(value)
            if kind is BatchesOnce:
                self._memories.share(value.held)
            elif isinstance(value, types.ModuleType) and sys.modules.get(value.__name__) is value:
                return importlib.import_module, (value.__name__,)
            elif issubclass(kind, type) or kind is types.FunctionType:
                self._by_value(value)
            return super().reducer_override(value)

        def _reduced(self, tensor: Tensor) -> Any:
            layout = tensor.dtype, tuple(tensor.shape), tensor.stride()
            learns = isinstance(tensor, nn.Parameter), tensor.requires_grad, dict(vars(tensor))
            if tensor.is_meta:
                return _meta, (layout, learns)
            tensor = self._memories.trimmed(tensor)
            layout = tensor.dtype, tuple(tensor.shape), tensor.stride()
            memory = self._memories.of(tensor)
            place = str(tensor.device), tensor.storage_offset()
            return _tensor, (memory, place, layout, learns)

    return Pickler


def _is_plain(tensor: Tensor) -> bool:
    return (
        tensor.layout is torch.strided
        and tensor.grad_fn is None
        and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
    )


def _parts_of(family: Family) -> tuple[Any, ...]:
    described = ("extra", "example_inputs", "source")
    kept = ("members", "cache_bytes")
    return (
        (family.shared, family.space, family.blueprint),
        {name: getattr(family, name) for name in described},
        {name: getattr(family, name) for name in kept},
    )


class _ByValue:
    """Lets classes and functions of a file that cannot be imported by name travel as code."""

    def __init__(self, cloudpickle: Any) -> None:
        self._cloudpickle = cloudpickle
        self._known: dict[str, bool] = {"__main__": True}
        self._registered: list[types.ModuleType] = []

    def __enter__(self) -> Callable[[object], None]:
        return self.look

    def __exit__(self, *error: object) -> None:
        for module in self._registered:
            self._cloudpickle.unregister_pickle_by_value(module)

    def look(self, value: object) -> None:
        name = str(getattr(value, "__module__", "") or "").partition(".")[0]
        if name not in self._known:
            self._known[name] = not name or _can_be_imported(name)
            module = sys.modules.get(name)
            if not self._known[name] and module is not None:
                self._cloudpickle.register_pickle_by_value(module)
                self._registered.append(module)


def _can_be_imported(name: str) -> bool:
    finders: Iterator[Any] = iter(sys.meta_path)
    return any(finder.find_spec(name, None) is not None for finder in finders)


# -- reading -----------------------------------------------------------------------------------


def _memory(kept: bytes | int) -> tuple[Tensor, bool]:
    """Return bytes as a tensor, and whether others read them too: then they stay where they lie."""
    if isinstance(kept, bytes):
        return (torch.frombuffer(bytearray(kept), dtype=torch.uint8) if kept else _NONE), False
    array = _opening[-1].memories[kept]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the array is read-only; `Opened.writes` watches it
        return (torch.from_numpy(array) if array.size else _NONE), True


_NONE = torch.empty(0, dtype=torch.uint8)


def _tensor(
    memory: tuple[Tensor, bool], place: tuple[str, int], layout: _Layout, learns: _Learns
) -> Tensor:
    whole, shared = memory
    device, offset = place
    dtype, shape, stride = layout
    found = torch.empty(0, dtype=dtype).set_(whole.untyped_storage(), offset, shape, stride)
    if device != "cpu":
        return _learning(found.to(torch.device(device).type), learns)
    made = _learning(found, learns)
    if shared:
        _opening[-1].shared.append(made)
    return made


def _meta(layout: _Layout, learns: _Learns) -> Tensor:
    dtype, shape, stride = layout
    return _learning(torch.empty_strided(shape, stride, dtype=dtype, device="meta"), learns)


def _learning(tensor: Tensor, learns: _Learns) -> Tensor:
    is_parameter, requires_grad, attributes = learns
    if is_parameter:
        tensor = nn.Parameter(tensor, requires_grad)
    else:
        tensor.requires_grad_(requires_grad)
    for name, value in attributes.items():
        setattr(tensor, name, value)
    return tensor


def _family(
    made_of: tuple[Any, ...], described: Mapping[str, Any], kept: Mapping[str, Any]
) -> Family:
    family = Family(*made_of, **described)
    for name, value in kept.items():
        setattr(family, name, value)
    return family
