"""The config: what it accepts, and what it says about what it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from manynet.config import (
    Config,
    differences,
    parse_assignment,
    parse_number,
    read_config,
    resolve,
    save_config,
    saved,
)
from manynet.errors import InputError, StorageError

WRONG: list[tuple[dict[Any, Any], str]] = [
    ({"train": {"epoch": 3}}, "train.epoch: unknown; did you mean train.epochs?"),
    ({"epochs": 3}, "epochs: unknown; did you mean train.epochs?"),
    ({"modle": "x"}, "modle: unknown; did you mean model?"),
    ({"data": {"nmae": "x"}}, "data.nmae: unknown; did you mean data.name?"),
    ({"zzz": 1}, "zzz: unknown; known: budget, data, deploy"),
    ({1: 2}, "1: keys should be strings"),
    ({"train": {"epochs": "ten"}}, "train.epochs: should be an integer, and is 'ten'"),
    ({"train": {"epochs": True}}, "train.epochs: should be a number, and is True"),
    ({"train": {"epochs": 0}}, "train.epochs: should be at least 1, and is 0"),
    ({"train": {"epochs": 2.5}}, "train.epochs: should be an integer"),
    ({"train": {"optimizer": "sdg"}}, "train.optimizer: should be 'sgd' or 'adamw', and is 'sdg'"),
    ({"train": {"learning_rate": float("nan")}}, "train.learning_rate: should be a finite number"),
    ({"train": {"warmup": -1}}, "train.warmup: should be at least 0"),
    ({"train": 3}, "train: should be a mapping of keys, and is 3"),
    ({"elastic": {"width": [0.5, 2]}}, "elastic.width.1: should be at most 1, and is 2"),
    ({"elastic": {"width": {"layer*": [3]}}}, "elastic.width.layer*.0: should be at most 1"),
    ({"elastic": {"width": "wide"}}, "elastic.width: should be a list or a mapping of keys"),
    ({"elastic": {"depth": [0]}}, "elastic.depth.0: should be greater than 0, and is 0"),
    ({"budget": {"macs": -1}}, "budget.macs: should be greater than 0, and is -1"),
    ({"budget": 3}, "budget: should be a mapping of keys, and is 3"),
    ({"hours": "x"}, "hours: should be a number, and is 'x'"),
    ({"data": 5}, "data: should be a mapping of keys, and is 5"),
    ({"deploy": {"formats": ["onx"]}}, "deploy.formats.0: should be 'onnx'"),
    ({"deploy": {"formats": []}}, "deploy.formats: should not be empty"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=[message for _, message in WRONG])
def test_what_does_not_fit_is_named_by_its_path_in_one_line(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        resolve(values)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_defaults_make_a_config_and_an_empty_section_is_one() -> None:
    assert resolve() == Config() == resolve({"train": None, "data": "digits"})


def test_more_of_the_digits_is_held_out_than_of_other_data() -> None:
    assert resolve().data.validation == 0.3
    assert resolve({"data": "cifar10"}).data.validation == 0.1
    assert resolve({"data": {"name": "digits", "validation": 0.2}}).data.validation == 0.2


def test_a_command_line_overrides_a_file_key_by_key() -> None:
    values = {"data": "cifar10", "train": {"epochs": 5, "batch_size": 32}}
    config = resolve(values, {"train.epochs": 7, "data": "digits", "budget": {"macs": 1e6}})
    assert (config.train.epochs, config.train.batch_size) == (7, 32)
    assert config.data.name == "digits"
    assert config.budget == {"macs": 1e6}
    assert values["train"] == {"epochs": 5, "batch_size": 32}  # what was handed in is not changed


def test_numbers_with_an_exponent_are_read_though_yaml_takes_them_for_words() -> None:
    config = resolve(yaml.safe_load("budget: {macs: 2e6}\ntrain: {learning_rate: 1e-2}"))
    assert config.budget == {"macs": 2e6}
    assert config.train.learning_rate == 0.01


def test_what_is_saved_is_read_back_equal(tmp_path: Path) -> None:
    config = resolve({"elastic": {"width": {"layer*": [0.5, 1]}}, "train": {"warmup": 5}})
    save_config(config, tmp_path / "config.yaml")
    assert saved(tmp_path / "config.yaml") == config
    assert set(yaml.safe_load((tmp_path / "config.yaml").read_text())) == set(Config.model_fields)


def test_differences_name_the_keys() -> None:
    old = resolve({"train": {"epochs": 20}})
    new = resolve({"train": {"epochs": 30}, "budget": {"macs": 5}})
    assert differences(old, old) == []
    assert sorted(differences(old, new)) == [
        "budget.macs: nothing, now 5.0",
        "train.epochs: 20, now 30",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is not valid YAML: line 1"),
        ("- 1", "holds list; a config is a mapping"),
        ("train: {epochs: 1}\ntrain: {epochs: 2}", "the key 'train' is given twice"),
        ("a: !!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"run\.yaml") as caught:
        read_config(path)
    assert message in str(caught.value)


def test_a_missing_or_binary_config_is_refused_and_an_empty_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no config"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        read_config(tmp_path / "binary.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_config(tmp_path / "empty.yaml") == {}


def test_a_damaged_saved_config_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("train: {epochs: many}")
    with pytest.raises(StorageError, match=r"train\.epochs"):
        saved(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("text", "value"), [("2M", 2e6), ("300k", 3e5), ("1.5G", 1.5e9), ("4", 4.0), ("3e5", 3e5)]
)
def test_numbers_of_a_command_line(text: str, value: float) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize("text", ["", "M", "two", "1 M M"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a number"):
        parse_number(text)


def test_assignments() -> None:
    assert parse_assignment("elastic.width=[0.5, 1]") == ("elastic.width", [0.5, 1])
    assert parse_assignment("model=file.py:net?a=1") == ("model", "file.py:net?a=1")
    for text in ("train.epochs", "=3", "a=[1"):
        with pytest.raises(InputError):
            parse_assignment(text)


def test_a_key_inside_a_value_that_is_no_section_is_refused() -> None:
    with pytest.raises(InputError, match=r"seed\.x"):
        resolve({"seed": 3}, {"seed.x": 1})
