"""What a run is made of: how to build the network, and three sets of data."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

import torch
from torch import nn
from torch.utils.data import Dataset

from manynet import models
from manynet._inputs import Inputs, Named, batches, positional, with_batch
from manynet.config import Config
from manynet.data import Data, load_data
from manynet.data import batches as indexed_batches
from manynet.errors import InputError
from manynet.models.build import build, with_options
from manynet.run._network import Network

__all__ = ["HANDED_IN", "Material", "from_config", "from_objects"]

HANDED_IN = "handed in"
"""What a config says of a network or of data that came as an object and not by name."""

_EXAMPLES = 2
_REAL = 16


@dataclass(frozen=True)
class Material:
    """The network and the data of a run.

    Args:
        network: returns the network anew, always the same one, or its empty form.
        source: its name in a library, where it has one.
        train: what the family learns from.
        val: what members are compared on.
        test: what is looked at once, in the end; None where there is none.
        task: what the targets are: `classify`, `regress`, `causal` or `masked`.
        tokenizer: of a language model.
    """

    network: Network
    source: str | None
    train: Any
    val: Any
    test: Any = None
    task: str = "classify"
    tokenizer: Any = None

    def example_inputs(self) -> Inputs:
        """Return inputs of two samples, for tracing and counting."""
        return with_batch(self._first, _EXAMPLES)

    def real_inputs(self) -> Inputs:
        """Return inputs of some validation samples, for verifying files."""
        return with_batch(self._first, _REAL)

    @cached_property
    def _first(self) -> Inputs:
        inputs, _ = next(iter(batches(self.val, batch_size=_REAL)), (None, None))
        if inputs is None:
            raise InputError("the validation data holds no sample; give some")
        return positional(self.network.form(), inputs) if isinstance(inputs, Mapping) else inputs

    def calibration(self, samples: int, seed: int) -> list[tuple[Any, Any]]:
        """Return batches of the training data that are the same in every call."""
        count = max(1, samples // 64)
        if isinstance(self.train, Dataset) and hasattr(self.train, "__len__"):
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(len(self.train), generator=generator)[:samples]
            order = order[: max(64, len(order) // 64 * 64)]
            return list(indexed_batches(self.train, 64, order=order))
        stream = itertools.islice(batches(self.train, batch_size=64), count)
        return [(_unwrapped(inputs), targets) for inputs, targets in stream]


def _unwrapped(inputs: Inputs | Named) -> Any:
    """Return a single tensor as itself."""
    return inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs


def from_config(config: Config) -> Material:
    """Return the network and the data that a config names.

    A network of torchvision or timm gets a classifier for the data's classes, and one of timm gets
    the data's channels, unless the name says otherwise.

    Raises:
        InputError: a name means nothing, or options or data do not fit.
        MissingExtraError: a library is not installed.
    """
    if HANDED_IN in config.model or config.data.name == HANDED_IN:
        raise InputError(
            "this run was started from Python with a network or data of its own; go on with it "
            "there: manynet.run(model, train_data, val_data, folder=…)"
        )
    if config.model.startswith("hf:"):
        return language_material(config)
    _only_for_language(config)
    data = _load(config)
    name = _fitted(config.model, data)
    parts = data.train, data.val, data.test
    return Material(_network(name, config), name, *parts, task=_task_of(data.val))


def _task_of(data: Any) -> str:
    """Return what the targets of data without a task of its own are: numbers, or classes."""
    target = _target(data)
    return "regress" if target is not None and target.is_floating_point() else "classify"


def _target(data: Any) -> torch.Tensor | None:
    """Return the first targets, a batch of one; None where there is no sample."""
    _, targets = next(iter(batches(data, batch_size=1)), (None, None))
    return targets if isinstance(targets, torch.Tensor) else None


def _are_numbers(data: Any) -> bool:
    """Whether the first input of the first sample is of real numbers, as pixels are."""
    inputs, _ = next(iter(batches(data, batch_size=1)), ((), None))
    values = list(inputs.values() if isinstance(inputs, Mapping) else inputs)
    return bool(values) and isinstance(values[0], torch.Tensor) and values[0].is_floating_point()


def _outputs_for(data: Data) -> int:
    """Return how many outputs a network needs: one for each class, or for each number."""
    if _task_of(data.val) == "classify":
        return len(data.classes)
    target = _target(data.val)
    return 1 if target is None else max(1, target[0].numel())


def _only_for_language(config: Config) -> None:
    for key, given in (("lora", config.train.lora), ("checkpointing", config.train.checkpointing)):
        if given:
            raise InputError(
                f"train.{key} is for language models, and the model is {config.model}; leave it "
                "out, or name a model as hf:FOLDER"
            )


def language_material(config: Config) -> Material:
    """Return a language model and its text, with a new head where a text's class is wanted.

    Raises:
        InputError: the model or the text is not there, or they do not fit each other.
    """
    path, _, query = config.model.removeprefix("hf:").partition("?")
    given = dict(parse_qsl(query))
    tokenizer = models.tokenizer_of(path)
    task = models.kind_of(path, given.get("task"))
    positions = models.positions_of(path)
    if positions is not None and config.data.length > positions:
        raise InputError(
            f"data.length is {config.data.length} tokens, and {config.model} has {positions} "
            f"positions; try --set data.length={positions}"
        )
    data = _load(config, tokenizer=tokenizer, task=task)
    if _are_numbers(data.val):
        raise InputError(
            f"{config.model} reads tokens, and the samples of {config.data.name} are no integers; "
            "give text, as in --data text:FILE"
        )
    wanted: dict[str, Any] = {}
    found = getattr(data, "task", "classify")
    if found == "classify":
        wanted = {"task": "classify", "num_labels": len(data.classes)}
    elif task not in ("causal", "masked"):
        raise InputError(
            f"{config.model} is a model for {task!r}, and {config.data.name} has no labels; give "
            "lines TEXT<TAB>LABEL in a .tsv file, or say ?task=causal or ?task=masked"
        )
    if config.train.lora is not None:
        wanted["lora"] = config.train.lora.rank
    if config.train.checkpointing:
        wanted["checkpointing"] = True
    name = with_options(config.model, {k: v for k, v in wanted.items() if k not in given})
    parts = data.train, data.val, data.test
    return Material(_network(name, config), name, *parts, task=found, tokenizer=tokenizer)


def _load(config: Config, **more: Any) -> Data:
    options = config.data.model_dump(exclude={"name"})
    return load_data(config.data.name, seed=config.seed, **options, **more)


def _fitted(name: str, data: Data) -> str:
    """Write into a network's name what the data asks for and the user left open."""
    scheme, _, rest = name.partition(":")
    given = dict(parse_qsl(rest.partition("?")[2]))
    wanted: dict[str, Any] = {}
    if scheme in ("torchvision", "timm"):
        wanted["num_classes"] = _outputs_for(data)
    if scheme == "timm" and len(data.input_shape) == 3 and data.input_shape[0] != 3:
        wanted["in_chans"] = data.input_shape[0]
    if scheme == "manynet":
        takes = _parameters(rest.partition("?")[0])
        asked = {
            "classes": _outputs_for(data),
            "channels": data.input_shape[0],
            "inputs": math.prod(data.input_shape),
        }
        wanted = {k: v for k, v in asked.items() if k in takes}
    return with_options(name, {k: v for k, v in wanted.items() if k not in given})


def _parameters(name: str) -> set[str]:
    """Return the arguments of one of manynet's own networks."""
    maker = getattr(models, name, None) if name in models.__all__ else None
    return set(inspect.signature(maker).parameters) if callable(maker) else set()


def _network(name: str, config: Config) -> Network:
    def make() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            return _build(name)

    return Network(make)


def _build(name: str) -> nn.Module:
    """Build a network; torchvision's weights for other classes are taken without their head."""
    path, _, query = name.partition("?")
    options = dict(parse_qsl(query))
    if not path.startswith("torchvision:") or not {"weights", "num_classes"} <= options.keys():
        return build(name)
    weights = options.pop("weights")
    model = build(with_options(path, {k: _number(v) for k, v in options.items()}))
    trained = build(path, weights=weights).state_dict()
    own = model.state_dict()
    fitting = {k: v for k, v in trained.items() if k in own and own[k].shape == v.shape}
    model.load_state_dict(own | fitting)
    return model


def _number(text: str) -> Any:
    return int(text) if text.isdigit() else text


def from_objects(
    config: Config, model: nn.Module | str, train: Any, val: Any, test: Any = None
) -> Material:
    """Return the network and the data that a user has handed in, either of them by name.

    Raises:
        InputError: the network is no module, or there is no validation data.
    """
    if isinstance(model, str) and model.startswith("hf:") and isinstance(train, str):
        return language_material(config)
    if isinstance(train, str):
        train = _load(config)
    name = model if isinstance(model, str) else None
    task, tokenizer = None, None
    if isinstance(train, Data):
        name = _fitted(name, train) if name else None
        task, tokenizer = getattr(train, "task", None), getattr(train, "tokenizer", None)
        train, val, test = train.train, val or train.val, test or train.test
    if val is None:
        raise InputError("run needs validation data, which members are compared on")
    task = task or _task_of(val)
    if name is not None:
        built = _network(name, config)
        return Material(built, name, train, val, test, task=task, tokenizer=tokenizer)
    if not isinstance(model, nn.Module):
        raise InputError(f"run takes an nn.Module or the name of one, not {type(model).__name__}")
    kept = copy.deepcopy(model)

    network = Network(lambda: copy.deepcopy(kept))
    return Material(network, None, train, val, test, task=task, tokenizer=tokenizer)
