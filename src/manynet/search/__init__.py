"""Find the archs on the front of quality against costs."""

from manynet.search._judge import CostLike as CostLike
from manynet.search._judge import FamilyLike as FamilyLike
from manynet.search._judge import Quality as Quality
from manynet.search._loop import Progress as Progress
from manynet.search._loop import search as search
from manynet.search._named import make_strategy as make_strategy
from manynet.search.budgeted import Repaired as Repaired
from manynet.search.budgeted import draw_at as draw_at
from manynet.search.budgeted import lower as lower
from manynet.search.budgeted import rises as rises
from manynet.search.coarse_to_fine import CoarseToFine as CoarseToFine
from manynet.search.engines import Engine as Engine
from manynet.search.engines import Evolve as Evolve
from manynet.search.engines import Predicted as Predicted
from manynet.search.engines import Pymoo as Pymoo
from manynet.search.engines import Sampled as Sampled
from manynet.search.forces import force_error as force_error
from manynet.search.forgetting import average_accuracy as average_accuracy
from manynet.search.forgetting import forgetting as forgetting
from manynet.search.front import Front as Front
from manynet.search.front import Record as Record
from manynet.search.genetic import Genetic as Genetic
from manynet.search.linas import Fidelity as Fidelity
from manynet.search.linas import Linas as Linas
from manynet.search.linas import one_shot as one_shot
from manynet.search.linas import weak_nas as weak_nas
from manynet.search.metrics import Metric as Metric
from manynet.search.metrics import accuracy as accuracy
from manynet.search.metrics import loss as loss
from manynet.search.metrics import metric as metric
from manynet.search.neighbors import features_of as features_of
from manynet.search.neighbors import neighbor_accuracy as neighbor_accuracy
from manynet.search.nsga2 import NSGA2 as NSGA2
from manynet.search.perplexity import perplexity as perplexity
from manynet.search.predictor import QualityPredictor as QualityPredictor
from manynet.search.predictor import fit_quality as fit_quality
from manynet.search.random_ import Exhaustive as Exhaustive
from manynet.search.random_ import Random as Random
from manynet.search.regressors import MLP as MLP
from manynet.search.regressors import SVR as SVR
from manynet.search.regressors import BoostedTrees as BoostedTrees
from manynet.search.regressors import Fitted as Fitted
from manynet.search.regressors import Regressor as Regressor
from manynet.search.regressors import Ridge as Ridge
from manynet.search.regressors import RidgeSvr as RidgeSvr
from manynet.search.regressors import Stacked as Stacked
from manynet.search.regressors import fitted_by as fitted_by
from manynet.search.store import Entry as Entry
from manynet.search.store import Store as Store
from manynet.search.store import read_entries as read_entries
from manynet.search.strategies import Evaluation as Evaluation
from manynet.search.strategies import Strategy as Strategy
from manynet.search.strategies import StrategyFactory as StrategyFactory
from manynet.search.workers import RayWorkers as RayWorkers

__all__ = [
    "MLP",
    "NSGA2",
    "SVR",
    "BoostedTrees",
    "CoarseToFine",
    "CostLike",
    "Engine",
    "Entry",
    "Evaluation",
    "Evolve",
    "Exhaustive",
    "FamilyLike",
    "Fidelity",
    "Fitted",
    "Front",
    "Genetic",
    "Linas",
    "Metric",
    "Predicted",
    "Progress",
    "Pymoo",
    "Quality",
    "QualityPredictor",
    "Random",
    "RayWorkers",
    "Record",
    "Regressor",
    "Repaired",
    "Ridge",
    "RidgeSvr",
    "Sampled",
    "Stacked",
    "Store",
    "Strategy",
    "StrategyFactory",
    "accuracy",
    "average_accuracy",
    "draw_at",
    "features_of",
    "fit_quality",
    "fitted_by",
    "force_error",
    "forgetting",
    "loss",
    "lower",
    "make_strategy",
    "metric",
    "neighbor_accuracy",
    "one_shot",
    "perplexity",
    "read_entries",
    "rises",
    "search",
    "weak_nas",
]
