"""Members train on clients, and a server merges what they send back.

A client gets the member that it can carry; `merge` averages updates of equal, nested or any widths
by the parts of the shared tensors that they are of. `federate` simulates all of it in one process.
"""

from manynet.federate._local import Exchange, Fit, Job, Local, fit, put_whole, samples_in
from manynet.federate._mean import RunningMean
from manynet.federate._merge import merge
from manynet.federate._rounds import Client, Round, federate, update_of
from manynet.federate._split import split_dirichlet
from manynet.federate._update import Update

__all__ = [
    "Client",
    "Exchange",
    "Fit",
    "Job",
    "Local",
    "Round",
    "RunningMean",
    "Update",
    "federate",
    "fit",
    "merge",
    "put_whole",
    "samples_in",
    "split_dirichlet",
    "update_of",
]
