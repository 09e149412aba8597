"""A network as the bytes of a file: ONNX, torch.export, safetensors; and the way back."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from manynet._inputs import (
    Inputs,
    as_inputs,
    batch_of,
    device_of,
    evaluating,
    moved,
    shapes,
    tensors_in,
    with_batch,
)
from manynet.bindings.pack import Integers, pack_sparse, unpack_sparse
from manynet.bindings.stored import integers_of
from manynet.deploy._pairs import put_integers, whole_integers, with_pairs
from manynet.deploy._program import read_program
from manynet.errors import InputError, MissingExtraError, StorageError

__all__ = [
    "Format",
    "Runner",
    "format_of",
    "load_weights",
    "needs",
    "onnx_session",
    "runner_of",
    "to_bytes",
    "to_onnx",
    "to_safetensors",
    "to_torch",
]

Format = Literal["onnx", "torch", "safetensors"]
Runner = Callable[[Inputs], list[Tensor]]
SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".pt2": "torch", ".safetensors": "safetensors"}
_ALIASES, _PACKED, _SPARSE = "manynet_aliases", "manynet_packed", "manynet_sparse"
_LARGEST_ONNX = 2**31 - 1  # protobuf's own limit


def format_of(path: Path | str, format: str | None = None) -> Format:
    """Return the format that is asked for, or else that of the file's ending.

    Raises:
        InputError: neither says one.
    """
    found = format if format is not None else SUFFIXES.get(Path(path).suffix)
    if found not in SUFFIXES.values():
        raise InputError(
            f"cannot tell the format of {path} (format={format!r}); end the name in "
            f"{', '.join(SUFFIXES)} or pass format='onnx', 'torch' or 'safetensors'"
        )
    return cast("Format", found)


def to_bytes(
    member: nn.Module,
    inputs: Inputs,
    format: Format,
    *,
    dynamic_batch: bool,
    opset: int | None,
    sparse: bool = False,
) -> bytes:
    """Return a network as the bytes of a file."""
    if format == "onnx":
        return to_onnx(member, inputs, dynamic_batch=dynamic_batch, opset=opset)
    if format == "torch":
        return to_torch(member, inputs, dynamic_batch=dynamic_batch)
    return to_safetensors(member, sparse=sparse)


def to_onnx(
    member: nn.Module, inputs: Inputs, *, dynamic_batch: bool = True, opset: int | None = None
) -> bytes:
    """Return a network in eval mode as the bytes of an ONNX file.

    Quantized weights become integers of 8 bits with their scales where ONNX has a form for theirs,
    and quantized inputs pairs of `QuantizeLinear` and `DequantizeLinear`.

    Args:
        member: the network; one on an accelerator is copied to the CPU for this.
        inputs: the arguments of its forward pass.
        dynamic_batch: the first dimension of the inputs may have any length.
        opset: the version of ONNX's operators; PyTorch's default if None.

    Raises:
        InputError: the network cannot be traced, or uses an operation that ONNX lacks.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    for library in ("onnx", "onnxscript"):
        needs(library)
    program = _traced(with_pairs(member), inputs, dynamic_batch)
    try:
        with _quiet():
            made = torch.onnx.export(
                program, (), dynamo=True, verbose=False, external_data=False, opset_version=opset
            )
            assert made is not None
            proto = made.model_proto
            put_integers(proto, whole_integers(member))
    except torch.onnx.OnnxExporterError as error:
        raise InputError(
            f"{type(member).__name__} cannot become ONNX: {_reason(error)}; "
            "try another opset, or format='torch'"
        ) from error
    if proto.ByteSize() > _LARGEST_ONNX:
        raise InputError(
            f"{type(member).__name__} takes {proto.ByteSize() / 1e9:.1f} GB, and an ONNX file "
            "holds 2 GB at most; use format='torch' or 'safetensors'"
        )
    return cast("bytes", proto.SerializeToString())


def to_torch(member: nn.Module, inputs: Inputs, *, dynamic_batch: bool = True) -> bytes:
    """Return a network in eval mode as the bytes of a `.pt2` file of `torch.export`.

    Raises:
        InputError: the network cannot be traced.
    """
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(_traced(member, inputs, dynamic_batch), buffer)
    return buffer.getvalue()


def to_safetensors(member: nn.Module, *, sparse: bool = False) -> bytes:
    """Return the weights and saved buffers as the bytes of a safetensors file, ties once.

    Names that share a tensor are in the metadata; `load_weights` gives all of them back. A weight
    that was extracted from a binding that rounds is kept as packed integers, `NAME.packed`, with
    `NAME.scale` and, by its form, `NAME.zero` or `NAME.offset`. With `sparse`, a weight with many
    zeros is kept as `NAME.bits` and `NAME.nonzero`, where that takes less.
    """
    from safetensors.torch import save

    first: dict[object, str] = {}
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    packed: dict[str, object] = {}
    thin: dict[str, list[int]] = {}
    parameters = dict(member.named_parameters(remove_duplicate=False))
    for name, value in member.state_dict().items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"{name} of {type(member).__name__} is extra state, not a tensor, and safetensors "
                "holds tensors only; use format='torch'"
            )
        key = value.device, value.data_ptr(), value.shape, value.stride(), value.dtype
        if value.numel() and key in first:
            aliases[name] = first[key]
            continue
        first[key] = name
        integers = integers_of(parameters[name]) if name in parameters else None
        parts = pack_sparse(value) if sparse and integers is None else None
        if parts is not None:
            thin[name] = list(value.shape)
            tensors |= {f"{name}.{role}": part for role, part in parts.items()}
        elif integers is None:
            tensors[name] = value.detach().cpu().contiguous().clone()
        else:
            packed[name] = integers.about()
            tensors |= {f"{name}.{role}": part for role, part in integers.tensors().items()}
    about = {"format": "pt", _ALIASES: json.dumps(aliases), _PACKED: json.dumps(packed)}
    if thin:
        about[_SPARSE] = json.dumps(thin)
    return _ordered(save(tensors, about))


def _ordered(data: bytes) -> bytes:
    """Put the metadata in order: safetensors writes it in another one each time.

    The same weights then give the same file, and the hash in a manifest means something.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[start:]


def load_weights(path: Path | str) -> dict[str, Tensor]:
    """Return the state dict of a safetensors file; tensors that were shared are shared again.

    Raises:
        StorageError: the file is missing, damaged, or no safetensors file.
    """
    try:
        return _weights_of(Path(path).read_bytes())
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise StorageError(f"{path} is damaged or no safetensors file: {error}") from error


def _weights_of(data: bytes) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        about = header.get("__metadata__", {})
        for name, how in json.loads(about.get(_PACKED, "{}")).items():
            tensors[name] = _unpacked(tensors, name, how)
        for name, shape in json.loads(about.get(_SPARSE, "{}")).items():
            parts = {role: tensors.pop(f"{name}.{role}") for role in ("bits", "nonzero")}
            tensors[name] = unpack_sparse(parts, shape)
        aliases = json.loads(about.get(_ALIASES, "{}"))
        return tensors | {name: tensors[first] for name, first in aliases.items()}
    except (SafetensorError, KeyError, AttributeError, InputError) as error:
        raise ValueError(str(error)) from error


def _unpacked(tensors: dict[str, Tensor], name: str, how: dict[str, Any]) -> Tensor:
    """Take the parts of a packed weight out of `tensors` and return the weight."""
    roles = ("packed", "scale", "zero", "offset")
    parts = {role: tensors.pop(f"{name}.{role}") for role in roles if f"{name}.{role}" in tensors}
    try:
        return Integers.of(parts, how).weight()
    except InputError as error:
        raise ValueError(f"{name}: {error}") from error


def onnx_model(data: bytes) -> Any:
    """Return what an ONNX file says, as protobuf; nothing is run, and no other file is read.

    Raises:
        MissingExtraError: onnx is not installed.
        StorageError: the bytes are no ONNX file.
    """
    onnx = needs("onnx")
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's errors share no base that it exports
        raise StorageError(f"the bytes are no ONNX file: {error}") from error
    if not model.graph.node:
        raise StorageError("the bytes are no ONNX file: it holds no operation")
    return model


def onnx_session(data: bytes | Path | str, *, device: str = "cpu", threads: int = 1) -> Any:
    """Return an ONNX Runtime session that keeps to a number of threads.

    Args:
        data: the file, or its bytes.
        device: `"cpu"` or a CUDA device.
        threads: threads within an operation; operations run one after the other.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        InputError: the runtime has no provider for the device.
        StorageError: the file is missing or no ONNX file.
    """
    ort = needs("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    where = torch.device(device)
    providers: list[Any] = ["CPUExecutionProvider"]
    if where.type == "cuda":
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            raise InputError(
                f"ONNX Runtime here cannot run on {device}; install onnxruntime-gpu or use 'cpu'"
            )
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": where.index or 0}))
    try:
        source = data if isinstance(data, bytes) else str(data)
        return ort.InferenceSession(source, options, providers=providers)
    except Exception as error:  # the runtime's errors share no base that it exports
        name = "the ONNX bytes" if isinstance(data, bytes) else str(data)
        first = str(error).splitlines()[0]
        raise StorageError(f"ONNX Runtime cannot load {name}: {first}") from error


def runner_of(member: nn.Module, data: bytes, format: Format) -> Runner:
    """Return a function that runs what is in a file on inputs, on the CPU."""
    if format == "onnx":
        return _onnx_runner(data)
    if format == "torch":
        module = read_program(io.BytesIO(data)).module()
        return lambda inputs: tensors_in(module(*inputs))
    weights = _weights_of(data)
    return lambda inputs: tensors_in(torch.func.functional_call(member, weights, inputs))


def _onnx_runner(data: bytes) -> Runner:
    session = onnx_session(data)
    names = [given.name for given in session.get_inputs()]

    def run(inputs: Inputs) -> list[Tensor]:
        arrays = [tensor.detach().cpu().numpy() for tensor in tensors_in(inputs)]
        if len(arrays) != len(names):
            raise InputError(f"the file takes {len(names)} tensors, and {len(arrays)} were given")
        found = session.run(None, dict(zip(names, arrays, strict=True)))
        return [torch.from_numpy(array) for array in found]

    return run


def _traced(member: nn.Module, inputs: Inputs, dynamic_batch: bool) -> Any:
    """Trace a network in eval mode on the CPU."""
    inputs = moved(as_inputs(inputs), torch.device("cpu"))
    dynamic = None
    if dynamic_batch:
        inputs = with_batch(inputs, max(2, batch_of(inputs)))  # one sample would become a constant
        dynamic = _dynamic(inputs)
    if device_of(member).type != "cpu":
        member = copy.deepcopy(member).cpu()
    with evaluating(member), torch.no_grad(), _quiet():
        try:
            return torch.export.export(member, inputs, dynamic_shapes=dynamic, strict=False)
        except Exception as error:
            _check_runs(member, inputs)
            fixed = dynamic_batch and "batch" in str(error)
            hint = "; dynamic_batch=False allows code that is made for one batch size"
            raise InputError(
                f"{type(member).__name__} cannot be traced with inputs of shape {shapes(inputs)}: "
                f"{_reason(error)}{hint if fixed else ''}"
            ) from error


def _check_runs(member: nn.Module, inputs: Inputs) -> None:
    """Say so plainly where the trouble is not the tracing: the inputs do not fit."""
    try:
        member(*inputs)
    except Exception as error:
        raise InputError(
            f"{type(member).__name__} cannot run on inputs of shape {shapes(inputs)}: "
            f"{_reason(error)}"
        ) from error


def _dynamic(inputs: Inputs) -> Any:
    """Return which dimensions are free: the first one of every tensor that has a row a sample."""
    size = batch_of(inputs)
    batch = torch.export.Dim("batch", min=1)
    return tuple(
        {0: batch} if isinstance(v, Tensor) and v.dim() and len(v) == size else None for v in inputs
    )


def _reason(error: BaseException) -> str:
    """Return the one line of a long message that says what happened and to which operation."""
    text = re.sub(r"\x1b?\[\d+m", "", str(error))
    if found := re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", text):
        return f"ONNX has no operation for {found.group(1)}{_place(text)}"
    if found := re.search(r"Error when translating node (\S+)", text):
        return f"{found.group(1)} could not be translated{_place(text)}"
    if found := re.search(r"## Exception summary\s+(.+)", text):
        return found.group(1).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _place(text: str) -> str:
    """Return the innermost line of the user's code that a message points to."""
    found = re.findall(r'File "([^"]+)", line (\d+)', text)
    return f" (used at {found[-1][0]}:{found[-1][1]})" if found else ""


def needs(library: str, extra: str = "onnx") -> Any:
    """Import a library of an extra."""
    import importlib

    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise MissingExtraError(library, extra) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' own progress lines, logs and deprecations to themselves for a while."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.filterwarnings("ignore", module=r"(torch|onnxscript|onnx_ir|copyreg)(\.|$)")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
