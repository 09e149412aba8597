"""What `model_coverage.py` asks of a model: whether it becomes a correct and useful family."""

from __future__ import annotations

import contextlib
import copy
import random
import resource
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

import manynet
from _coverage_models import Case
from conversion import limited, prune
from manynet.bindings.axes import axes_of
from manynet.bindings.slice import Slice
from manynet.elastic._reorder import permute_axes
from manynet.elastic._trace import trace_model
from manynet.elastic._tried import tried

TOLERANCE = 1e-5
MEMBERS = 5
PEER_S = 60
Result = dict[str, Any]


class Wrong(Exception):
    """A check that a model fails; the message is the reason that the table gives."""

    def __init__(self, reason: str, difference: float = float("inf")) -> None:
        super().__init__(reason)
        self.difference = difference


def check(case: Case, times: Result) -> Result:
    """Return what became of one model, `reason` empty where everything holds.

    Args:
        case: the model.
        times: the result of `timed`, where it is known already; empty: it is measured.
    """
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, inputs = case.build()
        settle(model).eval()
        result = judged(model, inputs, deep=case.deep) | {"part": case.part}
        return result | (times or timed(model, inputs))


def judged(model: nn.Module, inputs: tuple[Any, ...], *, deep: bool) -> Result:
    """Return what became of a model in evaluation mode; in doubles where rounding is too large."""
    result: Result = {
        "reason": "",
        "parameters": sum(p.numel() for p in model.parameters()),
        "input": [list(leaf.shape) for leaf in _floats(inputs)],
        "precision": "float32",
    }
    try:
        return result | verified(model, inputs, deep=deep)
    except Wrong as error:  # rounding, or wrong? doubles tell
        if not _is_rounding(error):
            return result | {"reason": str(error)}
    except Exception as error:  # the list goes on, and the table says what failed
        return result | {"reason": _described(error)}
    result["precision"] = "float64"
    try:
        doubles = tree_map_only(Tensor, _doubled, inputs)
        return result | verified(_in_doubles(model), doubles, deep=deep)
    except Wrong as again:
        jump = _jump(_in_doubles(model), doubles)
        note = f"; the original's own jump by {jump:.1e} when a bit changes" if jump else ""
        return result | {"reason": str(again) + note}
    except Exception as error:
        return result | {"reason": f"in doubles, {_described(error)}"}


def _described(error: Exception) -> str:
    if "can't allocate memory" in str(error):
        gib = resource.getrlimit(resource.RLIMIT_DATA)[0] >> 30
        return f"the checks need more than {gib} GiB of memory"
    return f"{type(error).__name__}: {_first_line(error)}"


@torch.no_grad()
def _jump(model: nn.Module, inputs: tuple[Any, ...]) -> float:
    """Return how far rounding alone moves the model's own outputs; 0 where within the tolerance.

    Where it picks by rank among equal scores, the last bit of a weight decides.
    """
    whole, most = outputs(model, inputs), 0.0
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        twin = copy.deepcopy(model)
        for parameter in twin.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.mul_(1 + 1e-15 * noise)
        most = max(most, distance(whole, outputs(twin, inputs)))
    return most if most > TOLERANCE else 0.0


def _is_rounding(error: Wrong) -> bool:
    return error.difference < float("inf")  # a rank that rounding turns around shows at full size


def _in_doubles(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model).double()
    choose = getattr(twin, "set_experts_implementation", None)
    if choose is not None:  # PyTorch multiplies groups of matrices in single precision only
        with contextlib.suppress(Exception):
            choose("eager")
    return twin


def _doubled(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _floats(value: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def settle(model: nn.Module) -> nn.Module:
    """Give everything that starts as a constant random values, so that an error shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
        for parameter in model.parameters():
            if not parameter.is_floating_point() or not parameter.numel():
                continue
            first = float(parameter.flatten()[0])
            if (parameter == first).all():
                noise = torch.rand(parameter.shape, generator=generator)
                size = first if abs(first) >= 0.01 else 1.0  # what is next to nothing hides errors
                parameter.copy_(size * (0.5 + noise) if first else 0.2 * noise - 0.1)
    return model


def outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """Return the results of a model; what it draws at random, it draws the same each time."""
    _seed()
    leaves = [leaf for leaf in _floats(model(*inputs)) if leaf.is_floating_point()]
    return [part for leaf in leaves for part in _parts(leaf)]


def _parts(leaf: Tensor) -> list[Tensor]:
    """Return a result, and beside it where it is infinite, as what a mask has switched off is."""
    infinite = leaf.detach().isinf()
    if not infinite.any():
        return [leaf]
    return [leaf.masked_fill(infinite, 0), infinite * leaf.detach().sign()]


def distance(left: list[Tensor], right: list[Tensor]) -> float:
    """Return the largest difference of two results, relative to the largest value of each."""
    if [a.shape for a in left] != [b.shape for b in right]:
        return float("inf")
    return max(
        float((a - b).abs().max() / a.abs().max().clamp_min(1e-12))
        for a, b in zip(left, right, strict=True)
    )


def _demand(what: str, value: float) -> float:
    if not value <= TOLERANCE:
        raise Wrong(f"{what} differ by {value:.1e}", value)
    return value


def verified(model: nn.Module, inputs: tuple[Any, ...], *, deep: bool = False) -> Result:
    """Return the figures of a model for which every check holds; raises `Wrong` where one fails.

    Args:
        model: the original, in evaluation mode.
        inputs: its arguments by position.
        deep: whether depth or heads have to be elastic beside widths.
    """
    trace = tried(model, inputs, trace_model(model, inputs))
    with torch.no_grad():
        whole = outputs(model, inputs)
        if not all(bool(torch.isfinite(leaf).all()) for leaf in whole):
            raise Wrong("the model's own outputs are not finite")
        shuffled = outputs(permute_axes(model, trace, np.random.default_rng(0)), inputs)
    figures: Result = {"permuted": _demand("permuted outputs", distance(whole, shuffled))}
    family = manynet.elastic(model, inputs)
    family.cache_bytes = 0  # no member comes twice, and large models are to fit
    with torch.no_grad():
        largest = distance(whole, outputs(family.at(family.space.largest), inputs))
    figures["largest"] = _demand("outputs of the largest member", largest)
    figures |= _elasticity(family, model)
    if deep and not (figures["depths"] or figures["heads"]):
        raise Wrong("neither depth nor heads are elastic")
    trains = _trains(model, inputs)
    figures["gradients in"] = "training" if trains else "evaluation"
    rng = np.random.default_rng(0)
    archs = [family.space.sample(rng, by="choice") for _ in range(MEMBERS)]
    worst = [check_member(family, arch, inputs, training=trains) for arch in archs]
    figures["members"] = max(max(pair) for pair in worst)
    figures |= _round_trip(model, family.eval().extract(archs[0]), inputs)
    return figures


def _elasticity(family: manynet.Family, model: nn.Module) -> Result:
    names = [choice.name for choice in family.space.choices]
    depths = [name for name in names if name.endswith(".depth") or name == "depth"]
    grouped = _grouped(family)
    heads = [name for name in names if "head" in name.rpartition(".")[2] or name in grouped]
    whole = sum(p.numel() for p in model.parameters())
    least = sum(p.numel() for p in family.extract(family.space.smallest).parameters())
    figures = {
        "widths": len(names) - len(depths) - len(heads),
        "depths": len(depths),
        "heads": len(heads),
        "removable": 1 - least / whole,
        "warnings": [f"{note.name}: {note.detail}" for note in family.report().warnings],
    }
    if not figures["widths"]:
        raise Wrong("no width is elastic")
    if figures["removable"] < 0.5:
        raise Wrong(f"only {figures['removable']:.0%} of the parameters can be removed")
    return figures


def _grouped(family: manynet.Family) -> set[str]:
    """Return the choices that count groups of a linear layer's rows, as heads of queries do."""
    slices = [b for b in family.blueprint.bindings.values() if isinstance(b, Slice)]
    rows = [b.dims[0] for b in slices if len(b.dims) == 2]
    return {axis.name for dim in rows for factor in dim[:-1] for axis in axes_of((factor,))}


def _trains(model: nn.Module, inputs: tuple[Any, ...]) -> bool:
    """Return whether the original itself runs in training mode on these inputs."""
    try:
        copy.deepcopy(model).train()(*inputs)
    except Exception:
        return False
    return True


def _seed() -> None:
    torch.manual_seed(0)  # dropout, stochastic depth and masks in time
    np.random.seed(0)  # models draw from these too
    random.seed(0)


def _backward(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    results = [leaf for leaf in outputs(model, inputs) if leaf.requires_grad]
    sum((leaf.square().mean() for leaf in results), torch.zeros(())).backward()


def check_member(
    family: manynet.Family, arch: manynet.Arch, inputs: tuple[Any, ...], *, training: bool
) -> tuple[float, float]:
    """Return how far a member is from its extraction, in output and in gradient."""
    family.eval()
    with torch.no_grad():
        output = distance(outputs(family.at(arch), inputs), outputs(family.extract(arch), inputs))
    _demand("outputs of a member and its extraction", output)
    family.train(training)
    alone = family.extract(arch)
    family.zero_grad()
    _backward(alone, inputs)
    _backward(family.at(arch), inputs)
    return output, _demand(
        "gradients of a member and its extraction", _gradients(family, arch, alone)
    )


def _gradients(family: manynet.Family, arch: manynet.Arch, alone: nn.Module) -> float:
    """Compare gradients entry by entry: the family's, read as a member, against the extraction's.

    What the member does not have must have no gradient, so the two norms must agree as well.
    """
    parameters = dict(family.named_parameters())
    shared = {name: p.grad for name, p in parameters.items()}
    values = {name: p.data for name, p in parameters.items()}
    for p in parameters.values():  # large models are checked too: nothing is copied
        p.data = torch.zeros_like(p) if p.grad is None else p.grad
    mine = dict(family.extract(arch).named_parameters())
    for name, p in parameters.items():
        p.data = values[name]
    total = _norm([g for g in shared.values() if g is not None])
    theirs = {
        n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in alone.named_parameters()
    }
    apart = _norm([mine[name].detach() - grad for name, grad in theirs.items()])
    scale = max(_norm(list(theirs.values())), 1e-12)
    return max(apart, abs(total - scale)) / scale


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.sqrt(sum((t.double().square().sum() for t in tensors), torch.zeros(()))))


def _round_trip(model: nn.Module, member: nn.Module, inputs: tuple[Any, ...]) -> Result:
    """Load the member's state into another, then export it; both must compute the same."""
    with torch.no_grad():
        own = outputs(member, inputs)
        other = copy.deepcopy(member)
        for tensor in [*other.parameters(), *other.buffers()]:
            if tensor.is_floating_point():
                tensor.zero_()
        other.load_state_dict(member.state_dict())
        for name, buffer in other.named_buffers():
            if name not in other.state_dict():
                buffer.copy_(member.get_buffer(name))
        _demand("outputs after state_dict", distance(own, outputs(other, inputs)))
        try:
            exported = torch.export.export(member, inputs).module()
        except Exception as error:
            return {"export": _blame(model, inputs, error)}
        apart = distance(own, outputs(exported, inputs))
        if apart > TOLERANCE and not _exports(model, inputs):
            return {"export": _NOT_EXPORTED}
        _demand("outputs after export", apart)
    return {"export": "equal"}


_NOT_EXPORTED = "the original does not export"


def _exports(model: nn.Module, inputs: tuple[Any, ...]) -> bool:
    """Return whether the original exports and then computes the same."""
    try:
        exported = torch.export.export(model, inputs).module()
        return distance(outputs(model, inputs), outputs(exported, inputs)) <= TOLERANCE
    except Exception:
        return False


def _blame(model: nn.Module, inputs: tuple[Any, ...], error: Exception) -> str:
    """Raise where the original exports; else say that it does not either."""
    if not _exports(model, inputs):
        return _NOT_EXPORTED
    raise Wrong(f"export fails: {type(error).__name__}: {_first_line(error)}")


def timed(model: nn.Module, inputs: tuple[Any, ...]) -> Result:
    """Return both libraries' times, the better of two turns, and whether the peer's is usable."""
    ours, theirs = [], []
    usable: bool | str = True
    model = model.eval()
    for _ in range(2):
        _timed(lambda: manynet.elastic(model, inputs), ours)
        if not theirs or theirs[0] < 20:
            usable = _timed(lambda: _pruned(model, inputs), theirs)
    return {
        "seconds": min(ours),
        "torch-pruning": {"usable": usable, "seconds": min(theirs)},
    }


def _pruned(model: nn.Module, inputs: tuple[Any, ...]) -> bool:
    with limited(PEER_S):
        return prune(model, inputs)


def _timed(run: Callable[[], Any], seconds: list[float]) -> bool | str:
    start = time.perf_counter()
    try:
        outcome: bool | str = bool(run())
    except Exception as error:  # the peer's failure is the result
        outcome = f"{type(error).__name__}: {_first_line(error)[:80]}"
    seconds.append(time.perf_counter() - start)
    return outcome
