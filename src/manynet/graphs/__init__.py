"""Networks on graphs and on points in space."""

from manynet.graphs._edges import join_points as join_points
from manynet.graphs._edges import radius_edges as radius_edges
from manynet.graphs._energy import EnergyForces as EnergyForces
from manynet.graphs._energy import RandomlyTurned as RandomlyTurned
from manynet.graphs._energy import turn_error as turn_error
from manynet.graphs.ponita import Ponita as Ponita
from manynet.graphs.ponita import PonitaLayer as PonitaLayer

__all__ = [
    "EnergyForces",
    "Ponita",
    "PonitaLayer",
    "RandomlyTurned",
    "join_points",
    "radius_edges",
    "turn_error",
]
