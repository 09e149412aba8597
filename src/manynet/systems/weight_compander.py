"""Weight Compander: weights behind a curve that spreads small ones and presses large ones.

Every weight is the image of a free number under one odd, increasing curve, steep at zero and flat
far out: no weight dominates, and small ones take part. It goes with weight decay, dropout and the
like; after training the curve is folded away, and a plain network is left.

Only the paper's abstract could be read. That the curve is an arctangent, `a * arctan(v / b)`, is
recalled, not confirmed. Not confirmed either: the values of a and b, whether learned ones are per
layer, whether decay acts on the free numbers, whether the classifier has a curve. Here a is three
standard deviations of a layer's weights, raised where the largest would not fit; the slope a / b
is 1.5; the network starts as the plain one; decay acts on the free numbers and never on a and b;
all linear and convolutional weights have a curve. The other curves are ours.

A curve multiplies a weight's step by up to its squared slope, so the learning rate is divided by
it. The proof learns digits from about 96 and about 320 images, with 200 others for validation.
Every arm takes its best of three decays on validation; the plain arm also the better of both
learning rates. A smaller budget thins the steps of all arms alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from manynet.bindings.recipes import Recipe, companded, powered
from manynet.data import Data, load_data
from manynet.errors import InputError
from manynet.family import Family
from manynet.family.apply import bind
from manynet.search import accuracy
from manynet.systems._condition import Condition
from manynet.systems._proof import Figures, Proof
from manynet.systems._system import System
from manynet.train import Task, train

__all__ = ["SYSTEM", "fold", "shape_of", "train_with_curve", "with_curve"]

CURVED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
SLOPE, RATE, DECAYS = 1.5, 0.05, (1e-4, 1e-3, 5e-3)
IMAGES, VALIDATION, STEPS, BATCH = (96, 320), 200, 400, 32


def with_curve(model: nn.Module, recipe: Recipe | None = None) -> Family:
    """Return a model as a family whose linear and convolutional weights lie behind a curve.

    Args:
        model: stays as it is; the family starts with its weights.
        recipe: `companded()` by default; with several slopes the family has a choice, `slope`.

    Raises:
        InputError: the model has no such weight.
    """
    modules = [(path, m) for path, m in model.named_modules() if isinstance(m, CURVED)]
    known = {name for name, _ in model.named_parameters()}
    names = [name for path, _ in modules if (name := f"{path}.weight".lstrip(".")) in known]
    if not names:
        raise InputError("the model has no linear or convolutional weight to put behind a curve")
    return bind(model, names, recipe or companded())


def train_with_curve(
    family: Family,
    data: Any,
    *,
    learning_rate: float = 0.05,
    slope: float = SLOPE,
    curve_rate: float = 0.1,
    weight_decay: float = 5e-4,
    **options: Any,
) -> None:
    """Train it at a plain network's learning rate over the square of the slope.

    Args:
        family: of `with_curve`.
        data: what `manynet.train` takes.
        learning_rate: what suits the plain network; SGD with Nesterov momentum.
        slope: of the curve at zero.
        curve_rate: share of the rate that learned heights and widths take.
        weight_decay: of the free numbers; vectors, heights and widths do not decay.
        **options: of `manynet.train`.
    """
    rate = learning_rate / slope**2
    curves = {
        id(p): p
        for name, p in family.named_parameters()
        if name in family.extra and not name.endswith(".latent")
    }

    def optimizer(groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        split: list[dict[str, Any]] = []
        for group in groups:
            others = [p for p in group["params"] if id(p) not in curves]
            if others:
                split.append({**group, "params": others})
        if curves:
            own = list(curves.values())
            split.append({"params": own, "lr": rate * curve_rate, "weight_decay": 0.0})
        return torch.optim.SGD(split, lr=rate, momentum=0.9, nesterov=True)

    recipe = {"objective": Task(), "weight_decay": weight_decay, **options}
    train(family, data, optimizer=optimizer, **recipe)


def fold(family: Family, **arch: Any) -> nn.Module:
    """Return a plain network: the curves are gone, the weights are what they gave."""
    return family.extract(arch)


def shape_of(weight: Tensor) -> dict[str, float]:
    """Return how a weight is distributed, in units of its standard deviation.

    Returns:
        the share `near zero` (less than 0.1), the `largest`, and the `kurtosis` (3 for a normal
        distribution, 1.8 for a uniform one).
    """
    z = weight.detach().double().flatten()
    z = z / z.std(correction=0)
    spread = z - z.mean()
    return {
        "near zero": float((z.abs() < 0.1).double().mean()),
        "largest": float(z.abs().max()),
        "kurtosis": float(spread.pow(4).mean() / spread.square().mean().square()),
    }


def prove(proof: Proof) -> None:
    """Compare with plain networks at both rates, with learned curves, and with powers."""
    slow = SLOPE**2
    proof.run("plain fast", partial(_arm, proof, None, 1.0))
    proof.run("plain slow", partial(_arm, proof, None, slow))
    proof.run("plain", partial(_better, proof))
    proof.run("compander", partial(_arm, proof, lambda: companded(slope=SLOPE), slow))
    learned = partial(companded, slope=SLOPE, learned=True)
    proof.run("compander learned", partial(_arm, proof, learned, slow))
    proof.run("power", partial(_arm, proof, powered, 1.0))


def _better(proof: Proof, seed: int) -> Figures:
    """Return the plain arm that did better on validation, as measured before."""
    place = proof.seeds.index(seed)
    both = [proof.arms[name][place] for name in ("plain fast", "plain slow")]
    best = max(both, key=lambda one: one.more["validation"])
    return Figures(best.value, best.samples_seen, best.parameters, best.more)


def _arm(proof: Proof, recipe: Callable[[], Recipe] | None, divided: float, seed: int) -> Figures:
    """Train on both sets with each decay, and judge what did best on validation on test."""
    more: dict[str, float] = {}
    count, steps = 0, proof.share(STEPS)
    for images in IMAGES:
        data = _data(images, seed)
        judge, test = _judge(data.val), _judge(data.test)
        found = []
        for decay in DECAYS:
            torch.manual_seed(seed)
            plain = Family(_network())
            family = with_curve(plain.shared, recipe()) if recipe else plain
            options = {"steps": steps, "batch_size": BATCH, "seed": seed, "weight_decay": decay}
            train_with_curve(family, data, learning_rate=RATE, slope=divided**0.5, **options)
            member, count = fold(family).eval(), sum(p.numel() for p in family.parameters())
            found.append((judge(member), test(member), member, decay))
        value, tested, member, decay = max(found, key=lambda one: one[0])
        shape = shape_of(member.get_parameter("6.weight"))
        told = {"validation": 100 * value, "test": 100 * tested, "decay": decay, **shape}
        more |= {name if images == IMAGES[0] else f"{name} {images}": v for name, v in told.items()}
    samples = len(IMAGES) * len(DECAYS) * steps * BATCH
    return Figures(more["test"], samples, count, more)


def _network() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 16, 1), (16, 32, 2), (32, 64, 2)):
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def _data(images: int, seed: int) -> Data:
    limit = images + VALIDATION
    return load_data("digits", limit=limit, validation=VALIDATION / limit, seed=seed)


def _judge(samples: Any) -> Callable[[nn.Module], float]:
    return accuracy(samples)


SYSTEM = System(
    number=35,
    year=2023,
    reference="arXiv 2306.16993",
    claim="Added to the usual regularization, it generalizes better and its weights are companded.",
    parts=(
        "a curve behind each weight",
        "the exact inverse as a start",
        "decay of the free numbers",
        "heights and widths, fixed or learned",
        "folding into plain weights",
    ),
    metric="accuracy on digits from about 96 images, in percent",
    higher_is_better=True,
    margin=0.0,
    ours="compander",
    baseline="plain",
    prove=prove,
    conditions=tuple(
        Condition("compander", plain, 0.0, figure, higher_is_better=False)
        for plain in ("plain fast", "plain slow")
        for figure in ("largest", "kurtosis", "near zero")
    ),
    module=__name__,
    example="""\
import torch
import manynet as mn
from manynet.bindings.recipes import companded
from manynet.systems.weight_compander import fold, train_with_curve, with_curve

data = mn.load_data("digits")
network = mn.build("manynet:small_cnn")
family = with_curve(network, companded(per="channel", learned=True))
train_with_curve(family, data.train, steps=30)
plain = fold(family)  # a network like any other, without curves
""",
)
