"""ONNX files to be timed: made a good deal more quickly than those to be shipped."""

from __future__ import annotations

import io
import warnings

import torch
from torch import nn

from manynet._inputs import Inputs, device_of, evaluating
from manynet.deploy._formats import needs, to_onnx
from manynet.deploy._pairs import whole_integers, with_pairs

__all__ = ["to_onnx_quickly"]


def to_onnx_quickly(member: nn.Module, inputs: Inputs) -> bytes:
    """Return a network as the bytes of an ONNX file for these inputs' shapes, to be timed.

    PyTorch's older exporter makes it in a tenth of the time of `to_onnx`; what a runtime makes of
    the two graphs takes as long to run. Quantized networks, and those that the older exporter
    does not take, go the way of `to_onnx`.

    Raises:
        InputError: the network cannot be traced, or uses an operation that ONNX lacks.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    needs("onnx")
    plain = with_pairs(member) is member and not whole_integers(member)
    if plain and device_of(member).type == "cpu":
        file = io.BytesIO()
        try:
            with evaluating(member), torch.no_grad(), warnings.catch_warnings(action="ignore"):
                # the older exporter takes open files too
                torch.onnx.export(member, inputs, file, dynamo=False)  # type: ignore[arg-type]
            return file.getvalue()
        except Exception:  # it fails in many ways; the newer one says why
            pass
    return to_onnx(member, inputs, dynamic_batch=False)
