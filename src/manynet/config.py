"""The config of a run: one YAML file whose keys are the names of arguments, checked key by key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from manynet._files import write_text
from manynet.errors import InputError, StorageError

__all__ = [
    "Config",
    "DataConfig",
    "DeployConfig",
    "ElasticConfig",
    "LoraConfig",
    "RankingConfig",
    "SearchConfig",
    "TrainConfig",
    "differences",
    "parse_assignment",
    "parse_number",
    "read_config",
    "resolve",
    "save_config",
    "saved",
]


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


Whole = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool)]
Count = Annotated[Whole, Field(ge=1)]
Several = Annotated[Whole, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(gt=0, le=1)]
Name = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A part of a config: frozen, and refusing what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """What to learn from: the arguments of `manynet.data.load_data`.

    Of the few digits a larger share is held out by default, so that members can be told apart.
    """

    name: Name = "digits"
    folder: str | None = None
    validation: Annotated[Number, Field(gt=0, lt=1)] = 0.1
    image_size: Count | None = None
    limit: Count | None = None
    length: Annotated[Whole, Field(ge=2)] = 256

    @model_validator(mode="before")
    @classmethod
    def _more_of_the_digits(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("name", "digits") == "digits":
            return {"validation": 0.3, **values}
        return values


class ElasticConfig(Section):
    """What is elastic: the arguments of `manynet.elastic`, and a warm-up before it.

    `warmup_epochs` trains the largest network for so long before its channels are ordered by
    importance; it pays where the network comes without trained weights. An importance that looks at
    data gets the samples of `search.calibration`.
    """

    width: tuple[Share, ...] | dict[str, tuple[Share, ...]] | None = (0.25, 0.5, 0.75, 1.0)
    depth: bool | tuple[Share, ...] = True
    kernel: bool | tuple[Count, ...] | None = None
    kernel_transform: bool = False
    keep: tuple[str, ...] = ()
    importance: Literal["l1", "l2", "taylor", "activation"] | None = "l2"
    depth_importance: Literal["influence"] | None = None
    multiple_of: Count | None = None
    uniform: bool | tuple[str, ...] = False
    strict: bool = False
    warmup_epochs: Several = 0


class LoraConfig(Section):
    """Low-rank adapters of a language model: they alone learn, and are merged into members."""

    rank: Count = 16


class TrainConfig(Section):
    """How the family is trained: the arguments of `manynet.train`.

    `epochs` is set from `hours` where that is given; `loss` is `FILE.py:FUNCTION`, a function of
    outputs and targets that returns their mean loss: by default the cross-entropy of classes and
    the squared error of numbers; `random` is how many random members a sandwich step trains beside
    the largest and the smallest; `teacher` is the largest member of
    each step or the frozen original; `augment` crops and flips images; `checkpointing` computes
    a language model's activations anew in the backward pass, for less memory.
    """

    epochs: Count | None = None
    batch_size: Count = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: Positive | None = None
    weight_decay: NotNegative | None = None
    warmup: Several | Annotated[Number, Field(ge=0, lt=1)] = 0.05
    schedule: Literal["cosine", "linear", "exponential", "constant"] = "cosine"
    clip: Positive | None = 1.0
    ema: Annotated[Number, Field(gt=0, lt=1)] | None = None
    sampler: Literal["sandwich", "uniform"] = "sandwich"
    random: Several = 1
    objective: Literal["distill", "task"] = "distill"
    loss: Name | None = None
    teacher: Literal["largest", "original"] = "largest"
    temperature: Positive = 1.0
    label_smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.1
    augment: bool = False
    lora: LoraConfig | None = None
    checkpointing: bool = False
    precision: Literal["no", "bf16", "fp16"] | None = None
    workers: Several = 0
    checkpoint_every: Count | None = None


class SearchConfig(Section):
    """How the front is found: the arguments of `manynet.search`.

    `evaluations` is set from `hours` where that is given; `quality` is what judges a member:
    `accuracy`, `loss`, or `FILE.py:FUNCTION`, a function of the validation data that returns a
    `manynet.Metric`; by default the accuracy of classes, the perplexity of text, and the loss of
    numbers; `calibration` is how many training
    samples set a member's batch-norm statistics before it is judged. With `workers`, so many
    members are judged at once through Ray, on this machine or in the cluster at `ray_address`.
    """

    evaluations: Count | None = None
    strategy: Literal[
        "nsga2",
        "linas",
        "weak_nas",
        "one_shot",
        "coarse_to_fine",
        "genetic",
        "random",
        "exhaustive",
    ] = "nsga2"
    population: Count | None = None
    quality: Name | None = None
    costs: tuple[Name, ...] = ("macs", "parameters", "bytes", "peak_memory")
    calibration: Count = 512
    latency_samples: Several = 40
    workers: Several = 0
    ray_address: Name | None = None


class RankingConfig(Section):
    """How inherited quality is checked: so many archs are trained alone; 0 leaves it out."""

    archs: Several = 4
    epochs: Count | None = None


class DeployConfig(Section):
    """What is shipped: how many members, in which formats, with how much fine-tuning."""

    members: Annotated[Whole, Field(ge=1, le=3)] = 3
    formats: Annotated[
        tuple[Literal["onnx", "torch", "safetensors", "transformers"], ...], Field(min_length=1)
    ] = ("onnx", "safetensors")
    int8: bool = False
    int4: bool = False
    fine_tune_epochs: Several = 0
    tolerance: Positive = 1e-4


class Config(Section):
    """Everything that decides what a run does. What is left out has the default shown."""

    model: Name = "manynet:small_cnn?widths=[16,32]"
    data: DataConfig = DataConfig(name="digits")
    budget: dict[str, Positive] = {}
    hours: Positive | None = None
    seed: Several = 0
    device: Name = "auto"
    threads: Count | None = None
    elastic: ElasticConfig = ElasticConfig()
    train: TrainConfig = TrainConfig()
    search: SearchConfig = SearchConfig()
    ranking: RankingConfig = RankingConfig()
    deploy: DeployConfig = DeployConfig()

    @model_validator(mode="before")
    @classmethod
    def _for_language(cls, values: Any) -> Any:
        if isinstance(values, dict) and str(values.get("model", "")).startswith("hf:"):
            return _with_defaults(values, LANGUAGE)
        return values

    @field_validator("data", mode="before")
    @classmethod
    def _data_by_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values that YAML and JSON know."""
        return self.model_dump(mode="json")


def _with_defaults(values: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` with `defaults` where they say nothing."""
    found = dict(values)
    for name, default in defaults.items():
        given = found.get(name)
        if isinstance(default, Mapping):
            if given is None or isinstance(given, dict):
                found[name] = {**default, **(given or {})}
        else:
            found.setdefault(name, default)
    return found


LANGUAGE: Mapping[str, Any] = {
    "elastic": {"width": (0.5, 0.75, 1.0), "uniform": True},
    "train": {
        "epochs": 1,
        "batch_size": 8,
        "optimizer": "adamw",
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
        "teacher": "original",
        "label_smoothing": 0.0,
    },
    "search": {"evaluations": 40, "costs": ("bytes", "macs"), "latency_samples": 0},
    "ranking": {"archs": 0},
    "deploy": {"formats": ("transformers",)},
}
"""The defaults of a run on a language model that differ from the others."""


# -- reading and writing -----------------------------------------------------------------------


def read_config(path: Path | str) -> dict[str, Any]:
    """Return what the YAML file at `path` says; `resolve` checks it.

    Raises:
        InputError: there is no such file, it is not YAML, or it is no mapping of keys.
    """
    path = Path(path)
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError as error:
        raise InputError(
            f"there is no config {path}; give a YAML file or a run's folder"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file in UTF-8, so it is no config") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {_yaml_reason(error)}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InputError(
            f"{path} holds {type(found).__name__}; a config is a mapping such as `model: "
            "torchvision:resnet18`"
        )
    return found


class _Loader(yaml.SafeLoader):
    """Plain YAML that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _yaml_reason(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def save_config(config: Config, path: Path) -> None:
    """Write `config`, every key of it, to `path`. Raises `StorageError`."""
    text = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
    write_text(path, text)


def saved(path: Path) -> Config:
    """Return the config that `save_config` wrote.

    Raises:
        StorageError: it is missing, damaged, or of another version of manynet.
    """
    try:
        return resolve(read_config(path))
    except InputError as error:
        raise StorageError(f"{path} is damaged or of another version: {error}") from error


_ANY = {"search.workers", "search.ray_address"}


def differences(old: Config, new: Config) -> list[str]:
    """Return what differs between two configs: `train.epochs: 20, now 30`.

    How many workers search, and where, changes no result, and may differ.
    """
    before, after = dict(_flat(old.to_dict())), dict(_flat(new.to_dict()))
    return [
        f"{key}: {_shown(before.get(key))}, now {_shown(after.get(key))}"
        for key in {**before, **after}
        if key not in _ANY and _shown(before.get(key)) != _shown(after.get(key))
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: Any) -> str:
    return "nothing" if value in (None, {}, []) else str(value)


# -- checking ----------------------------------------------------------------------------------


def resolve(
    values: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Return the config that `values` describe, with `overrides` on top.

    Args:
        values: nested, as a YAML file gives them.
        overrides: values by the path of their key, such as `{"train.epochs": 3}`.

    Raises:
        InputError: a key is unknown or a value does not fit; the message names the key by its path.

    Example:
        >>> resolve({"data": "cifar10"}, {"train.epochs": 3}).train.epochs
        3
        >>> resolve({"train": {"epoch": 3}})
        Traceback (most recent call last):
        ...
        manynet.errors.InputError: train.epoch: unknown; did you mean train.epochs?
    """
    merged = _copied(values or {})
    for path, value in (overrides or {}).items():
        _put(merged, path, value)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise InputError(_explained(error, merged)) from None


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    copied = {k: _copied(v) if isinstance(v, dict) else v for k, v in values.items()}
    if isinstance(copied.get("data"), str):
        copied["data"] = {"name": copied["data"]}
    return {
        key: {} if value is None and key in _SECTIONS else value for key, value in copied.items()
    }


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    *sections, key = path.split(".")
    for name in sections:
        inner = values.setdefault(name, {})
        if not isinstance(inner, dict):
            raise InputError(f"{path}: {name} is {inner!r}, which holds no {key}")
        values = inner
    if key == "data" and not sections and isinstance(value, str):
        values.setdefault("data", {})["name"] = value
    elif isinstance(value, dict) and isinstance(values.get(key), dict):
        values[key] = {**values[key], **value}
    else:
        values[key] = value


def _explained(error: ValidationError, values: Mapping[str, Any]) -> str:
    """Say in one line what is wrong first: the most exact of what was found about one key."""
    found = [(_path(one["loc"], values), one) for one in error.errors(include_url=False)]
    first = found[0][0]
    same = [pair for pair in found if pair[0][: len(first[:2])] == first[:2]]
    path, one = max(same, key=lambda pair: len(pair[0]))
    where = ".".join(map(str, path))
    if one["type"] == "extra_forbidden":
        return f"{where}: unknown{_nearest(where)}"
    options = list(dict.fromkeys(_reason(o) for p, o in same if p == path))
    return f"{where}: {' or '.join(options)}, and is {one['input']!r}".replace(
        " or should be ", " or "
    )


def _path(location: tuple[int | str, ...], values: Any) -> tuple[int | str, ...]:
    """Return the part of pydantic's location that the user wrote; the rest names its own types."""
    path: list[int | str] = []
    for part in location:
        inside = isinstance(values, dict) and part in values
        if inside or (isinstance(values, list | tuple) and isinstance(part, int)):
            path.append(part)
            values = values[part]
    return tuple(path)


def _reason(one: Any) -> str:
    text = str(one["msg"]).removeprefix("Value error, ").split(", unable to")[0]
    text = text.removeprefix("Input ").split(", got a number")[0].split(" or instance of")[0]
    for theirs, ours in _WORDS.items():
        text = text.replace(theirs, ours)
    return text[:1].lower() + text[1:]


_WORDS = {
    "a valid dictionary": "a mapping of keys",
    "a valid tuple": "a list",
    "Tuple should have at least 1 item after validation, not 0": "should not be empty",
    "a valid ": "a ",
    "a integer": "an integer",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    " or should be ": " or ",
}


def _known() -> list[str]:
    inside = [f"{name}.{key}" for name, kind in _SECTIONS.items() for key in kind.model_fields]
    return [*Config.model_fields, *inside]


_SECTIONS: dict[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


def _nearest(path: str) -> str:
    """Name the known key that is nearest: one beside it, else one of that name elsewhere."""
    section, _, key = path.rpartition(".")
    known = _known()
    beside = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section}
    elsewhere = {name.rpartition(".")[2]: name for name in reversed(known)}
    for names, cutoff in ((beside, 0.6), (elsewhere, 0.75)):
        near = difflib.get_close_matches(key, names, n=1, cutoff=cutoff)
        if near:
            return f"; did you mean {names[near[0]]}?"
    return f"; known: {', '.join(sorted(beside or elsewhere))}"


# -- what a command line hands in --------------------------------------------------------------

_SUFFIXES = {"k": 1e3, "M": 1e6, "G": 1e9}


def parse_number(text: str) -> float:
    """Return the number that `text` says; `2M`, `300k` and `1.5G` count in thousands.

    Raises:
        InputError: it is no number.

    Example:
        >>> parse_number("2M"), parse_number("3e5")
        (2000000.0, 300000.0)
    """
    factor = _SUFFIXES.get(text[-1:], 1.0)
    try:
        return float(text[:-1] if text[-1:] in _SUFFIXES else text) * factor
    except ValueError as error:
        raise InputError(f"{text!r} is not a number; write 2000000, 2e6 or 2M") from error


def parse_assignment(text: str) -> tuple[str, Any]:
    """Return key and value of `KEY=VALUE`, the value read as YAML reads it.

    Raises:
        InputError: there is no key, no `=`, or the value is not YAML.

    Example:
        >>> parse_assignment("elastic.width=[0.5, 1.0]")
        ('elastic.width', [0.5, 1.0])
    """
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise InputError(f"{text!r} should be KEY=VALUE, for example train.epochs=20")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"{text!r}: the value is not valid YAML: {_yaml_reason(error)}") from error
