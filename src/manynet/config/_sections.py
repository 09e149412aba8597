"""The sections of a config: their keys, what each may be, and the defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

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
    free: bool | tuple[str, ...] = False
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
