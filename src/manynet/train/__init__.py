"""Training a family: which archs a step trains, what they learn, and the loop around them.

`train` does it all: data order, schedule, precision, several processes, checkpoints, a log, an
exact resume. It needs nothing of a family that your own loop could not use:

    rng = np.random.default_rng(0)
    sampler, objective = Sandwich(), Distill()
    optimizer = torch.optim.SGD(family.parameters(), lr=0.1, momentum=0.9)
    family.guard(optimizer)             # leave alone what no member of a step has touched
    for batch in loader:                # (inputs, targets)
        family.zero_grad()
        accumulate(family, batch, sampler.archs(family.space, rng), objective)
        optimizer.step()

and `accumulate` in turn is, but for the teacher:

    for arch in archs:
        loss = F.cross_entropy(family.at(arch)(inputs), targets)
        loss.backward()                 # arrives in the gradients of family.parameters()
"""

from manynet.train._descend import Descent, descend
from manynet.train._hardware import Hardware, find_hardware, training_alone
from manynet.train._loop import Progress, Validate
from manynet.train._relax import Relaxed, relax
from manynet.train._source import TrainData, steps_an_epoch
from manynet.train._summed import step_times, sum_outputs
from manynet.train.best import Best, train_best
from manynet.train.bits import BitSchedule, bit_shares
from manynet.train.checkpoints import load_checkpoint, load_newest, save_checkpoint
from manynet.train.continual import ElasticWeights, OutputRegulariser
from manynet.train.ema import Ema
from manynet.train.estimators import (
    Dirichlet,
    Estimator,
    GumbelOneHot,
    Softmax,
    Sparsemax,
    UniformOneHot,
)
from manynet.train.events import Event, Moment
from manynet.train.forces import ForceMatching
from manynet.train.log import TrainingLog
from manynet.train.objectives import (
    Distill,
    DistillOutputs,
    Loss,
    Objective,
    Task,
    logits_of,
    squared_error,
)
from manynet.train.only import only
from manynet.train.optimizers import MakeOptimizer, make_optimizer, parameter_groups
from manynet.train.penalties import Penalty, UniformWeights, moments
from manynet.train.prune import Prune
from manynet.train.samplers import Fixed, Sampler, Sandwich, Staircase, Uniform
from manynet.train.schedules import Schedule, constant, cosine, exponential, linear, warmed_up
from manynet.train.shrink import ScaledL1, Scales, Shrink, scales_of
from manynet.train.stage import train_stage
from manynet.train.step import accumulate
from manynet.train.tail import DistillTail, last_hidden, showing_hidden_states
from manynet.train.teacher import TaughtBy
from manynet.train.tokens import DistillTokens, token_loss
from manynet.train.trainer import train

__all__ = [
    "Best",
    "BitSchedule",
    "Descent",
    "Dirichlet",
    "Distill",
    "DistillOutputs",
    "DistillTail",
    "DistillTokens",
    "ElasticWeights",
    "Ema",
    "Estimator",
    "Event",
    "Fixed",
    "ForceMatching",
    "GumbelOneHot",
    "Hardware",
    "Loss",
    "MakeOptimizer",
    "Moment",
    "Objective",
    "OutputRegulariser",
    "Penalty",
    "Progress",
    "Prune",
    "Relaxed",
    "Sampler",
    "Sandwich",
    "ScaledL1",
    "Scales",
    "Schedule",
    "Shrink",
    "Softmax",
    "Sparsemax",
    "Staircase",
    "Task",
    "TaughtBy",
    "TrainData",
    "TrainingLog",
    "Uniform",
    "UniformOneHot",
    "UniformWeights",
    "Validate",
    "accumulate",
    "bit_shares",
    "constant",
    "cosine",
    "descend",
    "exponential",
    "find_hardware",
    "last_hidden",
    "linear",
    "load_checkpoint",
    "load_newest",
    "logits_of",
    "make_optimizer",
    "moments",
    "only",
    "parameter_groups",
    "relax",
    "save_checkpoint",
    "scales_of",
    "showing_hidden_states",
    "squared_error",
    "step_times",
    "steps_an_epoch",
    "sum_outputs",
    "token_loss",
    "train",
    "train_best",
    "train_stage",
    "training_alone",
    "warmed_up",
]
