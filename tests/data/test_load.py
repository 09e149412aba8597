"""Loading by name: every kind of source, its splits, and what it refuses."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from manynet.data import Images, batches, load_data, load_function
from manynet.errors import InputError


def picture(seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels, mode=None)


def png(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "png")
    return file.getvalue()


def fill(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 6) -> Path:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            picture(number).save(folder / name / f"{number}.png")
    return folder


def table(path: Path, rows: int, **changes: object) -> Path:
    columns: dict[str, object] = {
        "jpeg": [png(row) for row in range(rows)],
        "label": [row % 3 for row in range(rows)],
    }
    columns.update(changes)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({k: v for k, v in columns.items() if v is not None}), path)
    return path


def lengths(data: object) -> tuple[int, int, int]:
    return tuple(len(getattr(data, name)) for name in ("train", "val", "test"))  # type: ignore[return-value]


def message(name: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load_data(str(name), **options)  # type: ignore[arg-type]
    return str(caught.value)


# -- digits -----------------------------------------------------------------------------------


def test_digits_are_split_into_disjoint_parts_of_all_classes() -> None:
    data = load_data("digits")
    assert lengths(data) == (1295, 143, 359)
    assert data.input_shape == data.example_inputs(3)[0].shape[1:] == (1, 8, 8)
    for part in (data.train, data.val, data.test):
        assert isinstance(part, TensorDataset)
        assert set(part.tensors[1].tolist()) == set(range(10))
    assert abs(float(data.train.tensors[0].mean())) < 0.02  # type: ignore[attr-defined]


def test_digits_are_those_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    from manynet.data._digits import _table

    for ours, theirs in zip(_table(), load_digits(return_X_y=True), strict=True):
        assert np.array_equal(ours, theirs)


def test_the_test_split_does_not_depend_on_the_seed_and_the_others_do() -> None:
    one, two = load_data("digits", seed=1), load_data("digits", seed=2)
    assert torch.equal(one.test.tensors[0], two.test.tensors[0])  # type: ignore[attr-defined]
    assert not torch.equal(one.val.tensors[0], two.val.tensors[0])  # type: ignore[attr-defined]


def test_limit_and_image_size_apply() -> None:
    data = load_data("digits", limit=100, validation=0.2, image_size=16)
    train, val, test = lengths(data)
    assert train + val == 100
    assert 15 <= val <= 25
    assert test == 359
    assert data.input_shape == (1, 16, 16)


# -- folders ----------------------------------------------------------------------------------


def test_a_folder_of_classes_is_split(tmp_path: Path) -> None:
    data = load_data(str(fill(tmp_path / "pets", count=10)), validation=0.2)
    assert lengths(data) == (12, 4, 4)
    assert data.classes == ("cat", "dog")
    assert data.input_shape == (3, 8, 8)
    assert "held out" in data.origin


def test_a_folder_with_splits_keeps_them(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        fill(tmp_path / split, count=3)
    assert lengths(load_data(str(tmp_path))) == (6, 6, 6)


def test_images_of_other_sizes_are_resized_and_cut(tmp_path: Path) -> None:
    fill(tmp_path, count=6)
    picture(0, (20, 10)).save(tmp_path / "cat" / "wide.png")
    assert load_data(str(tmp_path), image_size=12).input_shape == (3, 12, 12)
    assert load_data(str(tmp_path)).input_shape == (3, 224, 224)


def test_grey_images_keep_one_channel(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(6):
            picture(number, mode="L").save(tmp_path / name / f"{number}.png")
    data = load_data(str(tmp_path))
    assert data.input_shape == (1, 8, 8)


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    bad = fill(tmp_path) / "dog" / "3.png"
    bad.write_bytes(bad.read_bytes()[:60])
    assert str(bad) in message(tmp_path)
    bad.write_text("not an image")
    assert str(bad) in message(tmp_path)


def test_a_folder_without_images_or_classes_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "pets")
    (tmp_path / "pets" / "empty").mkdir()
    assert "empty holds no image" in message(tmp_path / "pets")
    (tmp_path / "none").mkdir()
    assert "at least 2" in message(tmp_path / "none")


def test_a_class_that_training_lacks_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / "test", ("cat", "dog", "newt"))
    assert "'newt'" in message(tmp_path)


def test_a_split_that_lacks_a_class_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train")
    fill(tmp_path / "test", ("cat",))
    assert "dog is missing" in message(tmp_path)


# -- tables -----------------------------------------------------------------------------------


def test_a_parquet_file_of_images(tmp_path: Path) -> None:
    data = load_data(str(table(tmp_path / "all.parquet", 60)))
    assert sum(lengths(data)) == 60
    assert data.classes == ("0", "1", "2")
    assert isinstance(data.train, Images)


def test_a_folder_of_parquet_files_named_after_splits(tmp_path: Path) -> None:
    table(tmp_path / "train-00000-of-00002.parquet", 12)
    table(tmp_path / "train-00001-of-00002.parquet", 12)
    table(tmp_path / "validation.parquet", 6)
    table(tmp_path / "test.parquet", 9)
    assert lengths(load_data(str(tmp_path))) == (24, 6, 9)


def test_labels_in_words_become_classes(tmp_path: Path) -> None:
    words = ["owl", "ant", "bee"] * 20
    data = load_data(str(table(tmp_path / "all.parquet", 60, label=words)))
    assert data.classes == ("ant", "bee", "owl")


def test_a_table_of_numbers_is_normalized_by_its_training_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = table(
        tmp_path / "n.parquet",
        90,
        jpeg=None,
        height=rng.normal(170, 10, 90),
        age=rng.integers(0, 90, 90),
    )
    data = load_data(str(path))
    assert data.input_shape == (2,)
    inputs = data.train.tensors[0]  # type: ignore[attr-defined]
    assert torch.allclose(inputs.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(inputs.std(0), torch.ones(2), atol=1e-4)


def test_nan_in_a_table_is_counted_and_its_split_named(tmp_path: Path) -> None:
    table(tmp_path / "train.parquet", 30, jpeg=None, x=np.arange(30.0))
    table(tmp_path / "test.parquet", 9, jpeg=None, x=[float("nan")] * 2 + [1.0] * 7)
    said = message(tmp_path)
    assert "test split: 2 of 9 samples hold NaN" in said


def test_labels_out_of_range_are_refused(tmp_path: Path) -> None:
    table(tmp_path / "train.parquet", 30)
    table(tmp_path / "test.parquet", 3, label=[0, 7, 1])
    said = message(tmp_path)
    assert "out of range" in said
    assert "7" in said
    assert "test split" in said
    assert "negative" in message(table(tmp_path / "neg.parquet", 3, label=[-1, 0, 1]))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"label": None}, "none is a label"),
        ({"jpeg": None}, "needs an image column"),
        ({"jpeg": None, "note": ["a"] * 30}, "'note' holds string"),
        ({"label": [0.5] * 30}, "whole numbers"),
        ({"label": [None, 1, 0] * 10}, "missing"),
        ({"jpeg": [b"no"] * 30}, "row "),
    ],
)
def test_wrong_columns_are_refused(tmp_path: Path, changes: dict[str, object], word: str) -> None:
    assert word in message(table(tmp_path / "t.parquet", 30, **changes))


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "t.parquet", 30)
    path.write_bytes(path.read_bytes()[:200])
    assert "cannot be read as parquet" in message(path)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_a_hugging_face_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    table(tmp_path / "set" / "train.parquet", 24)
    table(tmp_path / "set" / "test.parquet", 9)
    data = load_data(f"hf:{tmp_path / 'set'}", validation=0.25)
    assert lengths(data) == (18, 6, 9)
    assert "Hugging Face" in data.origin
    assert "cannot load it" in message(f"hf:{tmp_path / 'absent'}")


# -- CIFAR-10 ---------------------------------------------------------------------------------


def test_cifar10_is_taken_from_where_it_lies_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, rows in (("train", 60), ("test", 30)):
        table(tmp_path / "cifar10" / f"{split}.parquet", rows)
    monkeypatch.setenv("MANYNET_DATA", str(tmp_path))
    data = load_data("cifar10", limit=40)
    assert sum(lengths(data)) == 70
    assert data.classes[0] == "airplane"
    assert str(tmp_path / "cifar10") in data.origin
    assert "'jpeg'" in message_of_wrong_cifar(tmp_path)


def message_of_wrong_cifar(tmp_path: Path) -> str:
    table(tmp_path / "cifar10" / "train.parquet", 30, jpeg=None)
    return message("cifar10")


def test_cifar10_without_a_copy_or_a_network_lists_where_it_looked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchvision")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("MANYNET_DATA", str(tmp_path / "there"))
    said = message("cifar10", folder=tmp_path / "mine")
    assert str(tmp_path / "mine") in said
    assert str(tmp_path / "there") in said
    assert "MANYNET_DATA" in said


# -- functions and names ----------------------------------------------------------------------

FUNCTIONS = """
import torch
from torch.utils.data import Dataset
def pair(n, bad=False):
    x = torch.randn(n, 4)
    if bad: x[1, 2] = float("nan")
    return x, torch.arange(n) % 3
def two(): return pair(30), pair(9)
def three(): return pair(30), pair(6), pair(9)
def named(): return {"train": pair(30), "test": pair(9)}
def rotten(): return pair(30), pair(9, bad=True)
def labels(): return pair(30), (torch.randn(3, 4), torch.tensor([0, 5, 1]))
def number(): return 7
def lists(): return [1, 2], [3]
def uneven(): return (torch.randn(3, 4), torch.zeros(2)), pair(9)
def odd(): return {"train": pair(9), "exam": pair(9)}
def raises(): return 1 / 0
class Own(Dataset):
    def __len__(self): return 30
    def __getitem__(self, i): return torch.full((4,), float(i)), torch.tensor(i % 2)
def own(): return Own(), Own()
"""


@pytest.fixture
def functions(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FUNCTIONS)
    return path


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("two", (27, 3, 9)), ("three", (30, 6, 9)), ("named", (27, 3, 9)), ("own", (27, 3, 30))],
)
def test_a_users_function(functions: Path, name: str, wanted: tuple[int, int, int]) -> None:
    data = load_data(f"{functions}:{name}")
    assert lengths(data) == wanted
    assert data.input_shape == (4,)
    assert sum(len(y) for _, y in batches(data.train, 8)) == wanted[0]


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("rotten", "test split: 1 of 9 samples hold NaN"),
        ("labels", "out of range"),
        ("number", "returned int"),
        ("lists", "should be a torch Dataset"),
        ("uneven", "lengths [2, 3]"),
        ("odd", "exam"),
        ("thre", "did you mean 'three'"),
    ],
)
def test_a_users_function_that_returns_something_else(
    functions: Path, name: str, word: str
) -> None:
    assert word in message(f"{functions}:{name}")


def test_a_users_file_that_is_absent_or_broken(tmp_path: Path) -> None:
    assert "there is no file" in message(tmp_path / "absent.py:f")
    (tmp_path / "broken.py").write_text("import nothing_of_the_kind")
    assert "failed when it was run" in message(tmp_path / "broken.py:f")


def test_a_users_file_imports_its_neighbour_and_runs_again_only_when_changed(
    tmp_path: Path,
) -> None:
    (tmp_path / "beside_users_file.py").write_text("runs = []\n")
    file = tmp_path / "main.py"
    file.write_text("import beside_users_file as b\nb.runs.append(1)\nf = lambda: len(b.runs)\n")
    assert load_function(f"{file}:f")() == load_function(f"{file}:f")() == 1
    file.write_text(file.read_text() + "# changed\n")
    assert load_function(f"{file}:f")() == 2


@pytest.mark.parametrize(
    ("name", "options", "word"),
    [
        ("digit", {}, "did you mean 'digits'"),
        ("/nowhere/at/all", {}, "no such folder"),
        (__file__, {}, "unknown kind"),
        ("digits", {"validation": 0.0}, "between 0 and 1"),
        ("digits", {"validation": 1.5}, "between 0 and 1"),
        ("digits", {"limit": 0}, "at least 1"),
        ("digits", {"limit": 1}, "split is empty"),
        ("digits", {"image_size": -3}, "at least 1"),
    ],
)
def test_names_and_options_that_mean_nothing(
    name: str, options: dict[str, object], word: str
) -> None:
    assert word in message(name, **options)
