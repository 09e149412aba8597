"""Published systems as recipes: each composes the other rooms and carries a proof of its claim."""

from manynet.systems._catalog import CATALOG as CATALOG
from manynet.systems._condition import Condition as Condition
from manynet.systems._proof import Figures as Figures
from manynet.systems._proof import Proof as Proof
from manynet.systems._result import Measured as Measured
from manynet.systems._result import Result as Result
from manynet.systems._result import read_result as read_result
from manynet.systems._result import results_folder as results_folder
from manynet.systems._system import System as System
from manynet.systems._system import built as built
from manynet.systems._system import command_of as command_of
from manynet.systems._system import find as find
from manynet.systems._system import judge as judge
from manynet.systems._system import reproduce as reproduce

__all__ = [
    "CATALOG",
    "Condition",
    "Figures",
    "Measured",
    "Proof",
    "Result",
    "System",
    "built",
    "command_of",
    "find",
    "judge",
    "read_result",
    "reproduce",
    "results_folder",
]
