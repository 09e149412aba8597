"""Costs: what a member takes, counted, measured or predicted.

`parameters`, `bytes` and `macs` are three different things: tying weights cuts the first two and
not the third. `peak_memory` and `latency` are measured here; `fit_latency` and `latency_table`
predict the latency of members that were never run, from whole members or from blocks that are timed
alone, with their error stated. `by_layer` says where the cost sits, and `cost` makes a cost of any
function.
"""

from manynet.cost._analytic import bit_operations, macs, parameters
from manynet.cost._analytic import bytes_ as bytes
from manynet.cost._cache import kv_cache_bytes, token_latency
from manynet.cost._cost import Cost, FamilyLike, cost
from manynet.cost._count import LayerCost, by_layer
from manynet.cost._energy import Energy, EnergyCost, energy
from manynet.cost._exported import ExportedRun, exported_run
from manynet.cost._latency import Clock, Latency, LatencyCost, latency
from manynet.cost._latency_table import BlockTimes, LatencyTable, Site
from manynet.cost._memory import peak_memory
from manynet.cost._predictor import LatencyPredictor, fit_latency
from manynet.cost._remote import TOKEN, RemoteLatency, packed, unpacked
from manynet.cost._sparse import live_macs, nonzeros, sparse_bytes
from manynet.cost._survey import latency_table

__all__ = [
    "TOKEN",
    "BlockTimes",
    "Clock",
    "Cost",
    "Energy",
    "EnergyCost",
    "ExportedRun",
    "FamilyLike",
    "Latency",
    "LatencyCost",
    "LatencyPredictor",
    "LatencyTable",
    "LayerCost",
    "RemoteLatency",
    "Site",
    "bit_operations",
    "by_layer",
    "bytes",
    "cost",
    "energy",
    "exported_run",
    "fit_latency",
    "kv_cache_bytes",
    "latency",
    "latency_table",
    "live_macs",
    "macs",
    "nonzeros",
    "packed",
    "parameters",
    "peak_memory",
    "sparse_bytes",
    "token_latency",
    "unpacked",
]
