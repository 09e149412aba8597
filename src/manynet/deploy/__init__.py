"""Deploy: a member as a file that computes what the member computes.

`calibrate` gives a member batch-norm statistics of its own, `export` and `export_member` write
verified files with a manifest beside them, `quantize` makes int8 of an ONNX file, `verify` and
`check_manifest` look again later. Files are read without running code that they carry:
`load_weights` for safetensors, `load_program` for `torch.export`.
"""

from manynet.deploy._calibrate import calibrate
from manynet.deploy._export import export, export_member
from manynet.deploy._formats import load_weights, onnx_model, onnx_session, to_onnx
from manynet.deploy._language import load_plain
from manynet.deploy._manifest import FileRecord, Manifest, check_manifest, read_manifest
from manynet.deploy._openvino import openvino_request
from manynet.deploy._packed import pack_family
from manynet.deploy._plain import describable, plain_model
from manynet.deploy._program import load_program
from manynet.deploy._quantize import accuracy_of, quantize
from manynet.deploy._quick import to_onnx_quickly
from manynet.deploy._verify import verify

__all__ = [
    "FileRecord",
    "Manifest",
    "accuracy_of",
    "calibrate",
    "check_manifest",
    "describable",
    "export",
    "export_member",
    "load_plain",
    "load_program",
    "load_weights",
    "onnx_model",
    "onnx_session",
    "openvino_request",
    "pack_family",
    "plain_model",
    "quantize",
    "read_manifest",
    "to_onnx",
    "to_onnx_quickly",
    "verify",
]
