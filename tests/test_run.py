"""A run: what it leaves, how it goes on after a stop, and what it refuses."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manynet as mn
from manynet.config import resolve
from manynet.cost import Cost
from manynet.deploy import read_manifest
from manynet.errors import BudgetError, InputError, StorageError
from manynet.run import Event, RunResult, _costs
from manynet.run._diary import Diary
from manynet.run._folder import fresh_folder, held, open_folder
from manynet.run._material import Material, from_config, from_objects
from manynet.run._plan import Pace, plan_for
from manynet.run._ranking import kendall_tau

STAGES = (
    "find what hangs together",
    "train the family",
    "learn this machine's latency",
    "search",
    "measure latency",
    "train some alone to compare",
    "export members",
    "write the page",
)
QUICKLY = ("train the family", "search", "export members")
"""The stages that the fast tests stop in."""
QUICK: Mapping[str, Any] = {
    "train": {"epochs": 2, "batch_size": 32, "checkpoint_every": 2},
    "search": {"evaluations": 12, "calibration": 64, "latency_samples": 8},
    "ranking": {"archs": 2},
    "deploy": {"formats": ["safetensors"]},
}


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Linear(8, 16),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Linear(16, 16),
            nn.ReLU(),
            nn.Linear(16, 3),
        )


def samples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 8, generator=generator)
    return inputs, inputs[:, :3].argmax(1)


def go(folder: Path, **more: Any) -> RunResult:
    arguments = {"test_data": samples(40, 3), **QUICK, **more}
    return mn.run(network(), samples(160, 1), samples(120, 2), folder=folder, **arguments)


def essence(folder: Path) -> list[tuple[Any, ...]]:
    """Return the front without what was measured with a clock."""
    front = json.loads((folder / "front.json").read_text())
    return [(r["arch"], r["quality"], r["macs"], r["parameters"], r["bytes"]) for r in front]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    folder = tmp_path_factory.mktemp("run") / "one"
    return folder, go(folder)


def test_a_run_leaves_everything_that_the_page_reads(finished: tuple[Path, RunResult]) -> None:
    folder, result = finished
    names = {
        *("config.yaml", "environment.json", "plan.json", "family.safetensors", "family.json"),
        *("training.jsonl", "evaluations.sqlite", "front.csv", "front.json", "layers.json"),
        *("latency.json", "ranking.json", "report.html", "result.json"),
    }
    assert [name for name in names if not (folder / name).is_file()] == []
    assert result.report == folder / "report.html"
    assert result.summary == json.loads((folder / "result.json").read_text())
    ranking = json.loads((folder / "ranking.json").read_text())
    assert set(ranking["members"][0]) == {"arch", "macs", "inherited", "alone"}
    layers = json.loads((folder / "layers.json").read_text())["members"]
    assert set(layers) == {"largest", "smallest"}
    assert set(layers["largest"][0]) == {"path", "type", "macs", "parameters"}


def test_a_run_writes_down_its_stages_and_what_it_searched_for(
    finished: tuple[Path, RunResult],
) -> None:
    folder, result = finished
    progress = json.loads((folder / "progress.json").read_text())
    assert progress["state"] == "finished"
    assert tuple(stage["stage"] for stage in progress["stages"]) == STAGES
    assert all(stage["done"] == stage["total"] for stage in progress["stages"])
    search = json.loads((folder / "search.json").read_text())
    assert (search["metric"], search["higher_is_better"]) == ("accuracy", True)
    assert set(search["costs"]) <= set(result.front.costs)
    assert search["evaluations"] == 12


@pytest.mark.parametrize(
    ("error", "state", "message"),
    [(InputError("no such data"), "failed", "no such data"), (KeyboardInterrupt(), "stopped", "")],
)
def test_a_run_that_ends_early_says_how(
    tmp_path: Path, error: BaseException, state: str, message: str
) -> None:
    heard: list[Event] = []
    event = Event("search", 3, 9, "2 on the front")

    def end() -> None:
        with Diary(tmp_path, "run", heard.append, "result.json") as diary:
            diary.tell(event)
            assert json.loads((tmp_path / "progress.json").read_text())["state"] == "running"
            raise error

    with pytest.raises(type(error)):
        end()
    found = json.loads((tmp_path / "progress.json").read_text())
    assert (found["state"], found["message"]) == (state, message)
    assert found["stages"][0]["done"] == 3
    assert heard == [event]


def test_the_curves_hold_losses_and_accuracies(finished: tuple[Path, RunResult]) -> None:
    lines = (finished[0] / "training.jsonl").read_text().splitlines()
    members = json.loads(lines[-1])["members"]
    assert set(members) == {"largest", "smallest", "random"}
    assert all(0 <= member["accuracy"] <= 1 for member in members.values())


def test_the_member_that_is_returned_is_the_one_that_was_shipped(
    finished: tuple[Path, RunResult],
) -> None:
    folder, result = finished
    assert set(result.summary["members"]) <= {"small", "medium", "large"}
    assert result.record in result.front
    inputs, targets = samples(120, 2)
    right = (result.member(inputs).argmax(1) == targets).float().mean()
    assert float(right) == pytest.approx(result.record.quality, abs=1e-6)
    manifest = mn.check_manifest(folder / "members" / "large")
    assert manifest.arch == result.record.arch.to_json()
    assert manifest["model.safetensors"].difference <= 1e-4  # type: ignore[operator]
    assert 0 <= manifest.notes["test_accuracy"] <= 1


def test_the_same_call_again_computes_nothing_and_returns_the_same(
    finished: tuple[Path, RunResult],
) -> None:
    folder, result = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    events: list[Event] = []
    again = go(folder, progress=events.append)
    assert events == []
    assert again.front == result.front
    assert again.record == result.record
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert after == before


def test_another_config_is_refused_and_named(finished: tuple[Path, RunResult]) -> None:
    folder, _ = finished
    with pytest.raises(InputError, match=r"train\.epochs: 2, now 3") as caught:
        go(folder, train={**QUICK["train"], "epochs": 3})
    assert "--out" in str(caught.value)


class Stop(Exception):
    """What a test throws into a run."""


def stopping(stage: str, number: int) -> Callable[[Event], None]:
    """Return a listener that stops a run at the given event of a stage."""
    seen = 0

    def tell(event: Event) -> None:
        nonlocal seen
        seen += event.stage == stage
        if seen == number:
            raise Stop

    return tell


@pytest.mark.parametrize(
    "stage",
    [s if s in QUICKLY else pytest.param(s, marks=pytest.mark.slow) for s in STAGES],
)
def test_stopped_in_any_stage_it_goes_on_to_the_same_front(
    stage: str, finished: tuple[Path, RunResult], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(Stop):
        go(folder, progress=stopping(stage, 2 if stage != "write the page" else 1))
    assert not (folder / "result.json").exists()
    events: list[str] = []
    result = go(folder, progress=lambda event: events.append(event.stage))
    assert essence(folder) == essence(finished[0])
    wanted, found = finished[1].summary, result.summary
    assert found["ends"] == wanted["ends"]
    assert [m["quality"] for m in found["members"].values()] == [
        m["quality"] for m in wanted["members"].values()
    ]
    assert (folder / "training.jsonl").read_text() == (finished[0] / "training.jsonl").read_text()
    assert json.loads((folder / "ranking.json").read_text()) == json.loads(
        (finished[0] / "ranking.json").read_text()
    )


def test_a_budget_picks_the_best_member_within_it(
    finished: tuple[Path, RunResult], tmp_path: Path
) -> None:
    middle = finished[1].front[len(finished[1].front) // 2]
    limit = middle.costs["macs"]
    result = go(tmp_path / "run", budget={"macs": limit}, ranking={"archs": 0})
    assert set(result.summary["members"]) == {"best"}
    assert result.record.costs["macs"] <= limit
    fitting = [r.quality for r in result.front if r.costs["macs"] <= limit]
    assert result.record.quality == max(fitting)
    assert not (tmp_path / "run" / "ranking.json").exists()


def test_a_budget_below_the_smallest_member_ends_before_any_work(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(BudgetError, match="macs <= 3; the nearest, the smallest") as caught:
        go(folder, budget={"macs": 3})
    assert caught.value.nearest.costs["macs"] > 3  # type: ignore[attr-defined]
    assert not folder.exists()


def test_a_latency_that_no_member_has_is_told_when_all_else_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for _ in range(2):
        with pytest.raises(BudgetError, match="latency_ms <= 1e-06") as caught:
            go(folder, budget={"latency_ms": 1e-6}, ranking={"archs": 0})
        assert caught.value.nearest is not None
    assert (folder / "report.html").exists()
    assert (folder / "members" / "nearest" / "manifest.json").exists()
    assert (folder / "latency-predictor.json").exists()


@pytest.mark.slow
def test_warm_up_fine_tuning_and_averages_are_resumed_too(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "elastic": {"warmup_epochs": 1},
        "train": {**QUICK["train"], "ema": 0.5},
        "deploy": {"formats": ["safetensors"], "fine_tune_epochs": 1, "members": 1},
        "ranking": {"archs": 0},
        "search": {**QUICK["search"], "latency_samples": 0},
    }
    whole = go(tmp_path / "whole", **more)
    for stage in ("warm up", "fine-tune small"):
        with pytest.raises(Stop):
            go(tmp_path / "cut", progress=stopping(stage, 3), **more)
    cut = go(tmp_path / "cut", **more)
    assert essence(tmp_path / "cut") == essence(tmp_path / "whole")
    assert not (tmp_path / "cut" / "latency.json").exists()
    for mine, theirs in zip(cut.member.parameters(), whole.member.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_run_leaves_the_caller_as_it_was(tmp_path: Path) -> None:
    model, state, threads = network(), torch.get_rng_state(), torch.get_num_threads()
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(Stop):
        mn.run(
            model,
            samples(64, 1),
            samples(32, 2),
            folder=tmp_path / "run",
            progress=stopping("search", 1),
            **{**QUICK, "search": {"evaluations": 4, "latency_samples": 0}},
        )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"budget": {"mcas": 1}}, r"budget: there is no cost called mcas \(did you mean 'macs'"),
        ({"search": {"costs": ["mcas"]}}, r"search\.costs: there is no cost called mcas"),
        ({"train": {"epoch": 1}}, r"train\.epoch: unknown; did you mean train\.epochs"),
        ({"device": "cudo"}, "device 'cudo' cannot be used"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_left(
    more: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        go(tmp_path / "run", **more)
    assert not (tmp_path / "run").exists()


def test_energy_is_refused_before_the_run_where_nothing_counts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = functools.partial(mn.energy, powercap=tmp_path)
    monkeypatch.setattr(_costs, "energy", none)
    with pytest.raises(InputError, match="tells no energy"):
        go(tmp_path / "run", search={"costs": ["energy_mj"]})
    assert not (tmp_path / "run").exists()


def test_energy_is_a_cost_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def counter(device: object) -> Cost:
        assert str(device) == "cpu"
        return mn.cost("energy_mj", unit="mJ")(mn.macs())

    monkeypatch.setattr(_costs, "energy", counter)
    result = go(tmp_path / "run", search={**QUICK["search"], "costs": ["macs", "energy_mj"]})
    assert all(r.costs["energy_mj"] == r.costs["macs"] for r in result.front)


def test_data_must_be_whole(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="validation data"):
        mn.run(network(), samples(8, 1), folder=tmp_path / "run")
    with pytest.raises(InputError, match=r"takes an nn\.Module or the name of one"):
        mn.run(3, samples(8, 1), samples(8, 2), folder=tmp_path / "run")  # type: ignore[arg-type]


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"is no run and not empty \(it holds thesis.txt\)"):
        go(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) in (
        ["thesis.txt"],
        [".lock", "thesis.txt"],
    )
    with pytest.raises(StorageError, match="cannot write into"):
        go(tmp_path / "thesis.txt")


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(StorageError, match="another process"), held(tmp_path):
        pass
    with held(tmp_path):  # free again
        pass


def test_a_fresh_folder_has_the_first_free_number(tmp_path: Path) -> None:
    config = resolve({"data": "a b/pictures/"})
    assert fresh_folder(config, tmp_path) == tmp_path / "pictures-1"
    (tmp_path / "pictures-1").mkdir()
    assert fresh_folder(config, tmp_path) == tmp_path / "pictures-2"


def test_a_folder_that_a_killed_process_had_just_made_is_taken(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.yaml.x7").write_text("half a con")
    open_folder(tmp_path, resolve())
    assert (tmp_path / "config.yaml").is_file()


def test_hours_become_a_plan_once(tmp_path: Path) -> None:
    config = resolve({"hours": 1.0})
    plan = plan_for(tmp_path, config, lambda: Pace(epoch=60.0, evaluation=2.0))
    assert (plan.epochs, plan.evaluations) == (36, 270)
    again = plan_for(tmp_path, config, lambda: pytest.fail("measured again"))
    assert again == plan
    settled = resolve({"hours": 1.0, "train": {"epochs": 5}, "search": {"evaluations": 9}})
    kept = plan_for(tmp_path / "b", settled, lambda: Pace(epoch=60.0, evaluation=2.0))
    assert (kept.epochs, kept.evaluations) == (5, 9)


def test_a_short_time_still_makes_a_plan(tmp_path: Path) -> None:
    plan = plan_for(tmp_path, resolve({"hours": 1e-6}), lambda: Pace(60.0, 2.0))
    assert plan.epochs == 1
    assert plan.ranked == 0
    (tmp_path / "plan.json").write_text('{"epochs": 1}')
    with pytest.raises(StorageError, match=r"plan\.json is damaged"):
        plan_for(tmp_path, resolve({"hours": 1.0}), lambda: Pace(60.0, 2.0))


def test_a_run_with_hours_measures_its_pace(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        go(tmp_path / "run", hours=0.001, train={}, progress=stopping("train the family", 1))
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["epochs"] >= 1


@pytest.mark.parametrize(
    ("model", "data", "source"),
    [
        ("torchvision:resnet18", "digits", "torchvision:resnet18?num_classes=10"),
        ("torchvision:resnet18?num_classes=7", "digits", "torchvision:resnet18?num_classes=7"),
        ("timm:resnet10t", "digits", "timm:resnet10t?num_classes=10&in_chans=1"),
        ("manynet:small_cnn", "digits", "manynet:small_cnn?classes=10&channels=1"),
        ("manynet:mlp?widths=[32]", "digits", "manynet:mlp?widths=[32]&classes=10&inputs=64"),
    ],
)
def test_a_network_is_fitted_to_the_data_unless_the_name_says_otherwise(
    model: str, data: str, source: str
) -> None:
    found = from_config(resolve({"model": model, "data": data}))
    assert found.source == source


def test_a_network_is_built_alike_each_time() -> None:
    material = from_config(resolve({"seed": 5}))
    first, second = material.network(), material.network()
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_calibration_batches_are_the_same_in_every_call() -> None:
    data = torch.utils.data.TensorDataset(*samples(300, 1))
    material = Material(network, None, data, data)
    batches = material.calibration(128, seed=3)
    assert [len(inputs) for inputs, _ in batches] == [64, 64]
    for (one, _), (other, _) in zip(batches, material.calibration(128, seed=3), strict=True):
        assert torch.equal(one, other)
    tensors = Material(network, None, samples(300, 1), data)
    assert [len(inputs) for inputs, _ in tensors.calibration(128, seed=3)] == [64, 64]


def test_kendall_tau_is_that_of_scipy(rng: Any) -> None:
    from scipy.stats import kendalltau

    for _ in range(20):
        values = rng.integers(0, 5, (7, 2)).tolist()
        found = kendall_tau([(a, b) for a, b in values])
        wanted = float(kendalltau([a for a, _ in values], [b for _, b in values]).statistic)
        assert found is None if math.isnan(wanted) else found == pytest.approx(wanted)
    assert kendall_tau([(1, 1)]) is None


def test_names_that_are_packages_too_stay_functions() -> None:
    import manynet.elastic.importance
    import manynet.run
    import manynet.search.front
    import manynet.train.samplers  # noqa: F401 - that it can be imported is what is tested
    from manynet.cost import by_layer
    from manynet.train import Sandwich

    assert Sandwich is mn.Sandwich
    assert by_layer is mn.by_layer
    for name in ("cost", "elastic", "run", "search", "train"):
        assert callable(getattr(mn, name)), name
    assert sorted(mn.__all__) == list(mn.__all__)
    assert [name for name in mn.__all__ if not hasattr(mn, name)] == []
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = mn.nothing_such  # type: ignore[attr-defined]


# -- numbers for targets, and a loss and a quality of the user's own ---------------------------


def numbers(count: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 8, generator=generator)
    return inputs, inputs[:, :3]


def notes_in(result: RunResult) -> Mapping[str, Any]:
    (name, *_) = result.summary["members"]
    return read_manifest(result.folder / "members" / name).notes


def test_numbers_are_learned_by_their_squared_error(tmp_path: Path) -> None:
    result = mn.run(
        network(), numbers(160, 1), numbers(40, 2), test_data=numbers(40, 3),
        folder=tmp_path / "run", **QUICK | {"train": {"epochs": 8, "batch_size": 32}},
    )  # fmt: skip
    assert (result.front.metric, result.front.higher_is_better) == ("loss", False)
    assert min(record.quality for record in result.front.members) < 0.9  # 1 is the mean's own
    assert "test_loss" in notes_in(result)


def test_a_loss_and_a_quality_of_the_users_own(tmp_path: Path) -> None:
    calls = []

    def absolute(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(targets.shape)
        return (outputs - targets).abs().mean()

    @mn.metric("flips", higher_is_better=False)
    def flips(member: nn.Module) -> float:
        inputs, targets = numbers(40, 2)
        return float((member(inputs).sign() != targets.sign()).float().mean())

    result = mn.run(
        network(), numbers(64, 1), numbers(40, 2), folder=tmp_path / "run", loss=absolute,
        quality=flips, **QUICK | {"ranking": {"archs": 0}},
    )  # fmt: skip
    assert result.front.metric == "flips"
    assert calls


def test_a_config_names_a_loss_and_a_quality(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "import torch, manynet as mn\n"
        "def net(): return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(),\n"
        "                                      torch.nn.Linear(8, 1))\n"
        "def data():\n"
        "    x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))\n"
        "    return (x[:64], x[:64, 0]), (x[64:], x[64:, 0])\n"
        "def huber(outputs, targets):\n"
        "    return torch.nn.functional.huber_loss(outputs.squeeze(-1), targets)\n"
        "def worst(data):\n"
        "    @mn.metric('worst', higher_is_better=False)\n"
        "    def largest_error(member):\n"
        "        return max(float((member(x[None]) - y).abs()) for x, y in data)\n"
        "    return largest_error\n"
        "def nothing(data): return 3\n"
    )
    values = {
        "model": f"{file}:net", "data": {"name": f"{file}:data"}, **QUICK,
        "train": {"epochs": 1, "loss": f"{file}:huber"}, "ranking": {"archs": 0},
        "search": {"evaluations": 4, "latency_samples": 0, "quality": f"{file}:worst"},
    }  # fmt: skip
    result = mn.run_config(resolve(values), folder=tmp_path / "run")
    assert result.front.metric == "worst"
    assert "test_worst" in notes_in(result)
    wrong = values | {"search": {"quality": f"{file}:nothing"}}
    with pytest.raises(InputError, match="returned int; it should take data and return a"):
        mn.run_config(resolve(wrong), folder=tmp_path / "wrong")


def test_a_named_network_gets_an_output_for_each_number() -> None:
    train = torch.utils.data.TensorDataset(torch.randn(4, 1, 8, 8), torch.randn(4, 3))
    data = mn.data.Data(train, train, train, (), (1, 8, 8), "three numbers", "here")
    material = from_objects(resolve({}), "manynet:small_cnn?widths=[4,8]", data, None)
    assert material.task == "regress"
    assert material.network.original()(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
