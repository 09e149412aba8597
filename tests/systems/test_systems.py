"""The frame of the published systems: proofs that resume, results that judge, the two verbs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from manynet import cli
from manynet.cli._side_by_side import run_side_by_side
from manynet.errors import InputError, ManynetError, StorageError
from manynet.systems import (
    CATALOG,
    Condition,
    Figures,
    Proof,
    System,
    built,
    command_of,
    find,
    judge,
    read_result,
    reproduce,
    results_folder,
)
from manynet.systems import _system as module

Arms = dict[str, Callable[[int], float]]


def system_of(arms: Arms, **changes: object) -> System:
    def prove(proof: Proof) -> None:
        for name, value in arms.items():
            proof.run(name, lambda seed, value=value: Figures(value(seed), proof.share(100), 7))

    made = System(
        number=13, year=2020, reference="arXiv 2003.11142", claim="It is better.", parts=("slice",),
        metric="accuracy", higher_is_better=True, margin=0.1, ours="ours", baseline="plain",
        prove=prove, module="", example="",
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


ARMS: Arms = {"ours": lambda seed: 0.9 + seed / 100, "plain": lambda seed: 0.8}


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> System:
    system = system_of(ARMS)
    monkeypatch.setattr(module, "built", lambda: {13: system})
    monkeypatch.setattr("manynet.cli._systems_terminal.built", lambda: {13: system})
    return system


def test_there_are_fifty_with_names_of_their_own() -> None:
    assert sorted(CATALOG) == list(range(1, 51))
    assert len({name for name, _ in CATALOG.values()}) == 50


def test_every_system_that_is_built_is_whole() -> None:
    for number, system in built().items():
        assert number == system.number
        assert system.parts and system.claim.endswith(".") and system.margin is not None
        assert system.module and system.example


def test_the_command_of_a_proof_names_what_it_was_set_to() -> None:
    system = system_of(ARMS)
    assert command_of(system, Proof()) == "manynet reproduce bignas"
    thinned = command_of(system, Proof(seeds=(3, 4), budget=0.25))
    assert thinned == "manynet reproduce bignas --seeds 3,4 --share 0.25"
    small = replace(system, share=0.25)
    assert command_of(small, Proof(budget=0.25)) == "manynet reproduce bignas"
    assert command_of(small, Proof()) == "manynet reproduce bignas --share 1"


def test_a_result_is_written_read_and_judged(tmp_path: Path) -> None:
    result = reproduce(system_of(ARMS), Proof(seeds=(0, 1)), tmp_path)
    assert read_result(tmp_path / "13-bignas.json") == result
    assert result.mean("ours") == pytest.approx(0.905)
    assert result.spread("ours") == pytest.approx(0.00707, abs=1e-5)
    assert (result.verdict, result.difference) == ("holds", pytest.approx(0.105))
    data = json.loads((tmp_path / "13-bignas.json").read_text())
    assert data["verdict"] == "holds"
    assert data["arms"]["plain"][1].keys() >= {"seed", "value", "seconds", "samples_seen"}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"margin": 0.2}, "misses"),
        ({"higher_is_better": False}, "misses"),
        ({"higher_is_better": False, "margin": -0.2}, "holds"),
        ({"ours": "plain", "baseline": "ours", "higher_is_better": False}, "holds"),
    ],
)
def test_the_verdict_follows_margin_and_direction(
    tmp_path: Path, changes: dict[str, object], verdict: str
) -> None:
    assert reproduce(system_of(ARMS, **changes), Proof(), tmp_path).verdict == verdict


def test_a_margin_may_be_a_share_of_the_baseline(tmp_path: Path) -> None:
    for margin, verdict in ((0.13, "holds"), (0.14, "misses")):
        system = system_of(ARMS, margin=margin, relative=True)  # 0.91 against 0.8: 13.75 %
        result = reproduce(system, Proof(), tmp_path)
        assert result.verdict == verdict
        assert read_result(tmp_path / "13-bignas.json") == result
        assert result.main.required(result.arms) == pytest.approx(margin * 0.8)


@pytest.mark.parametrize(
    ("condition", "verdict"),
    [
        (Condition("ours", "third"), "misses"),
        (Condition("ours", "third", -0.05), "holds"),
        (Condition("ours", "plain", 0.0, "loss", higher_is_better=False), "holds"),
        (Condition("ours", "plain", 0.0, "loss"), "misses"),
        (Condition("ours", "plain", 0.5, "loss", None, False, True), "holds"),
        (Condition("ours", "plain", 0.51, "loss", None, False, True), "misses"),
        (Condition("ours", 7, 0.0, "rank"), "holds"),
        (Condition("ours", "ours", 0.0, "rank", "loss"), "holds"),
    ],
)
def test_a_claim_holds_where_all_its_conditions_do(
    tmp_path: Path, condition: Condition, verdict: str
) -> None:
    def prove(proof: Proof) -> None:
        for arm, value, loss in (("ours", 0.95, 0.2), ("plain", 0.8, 0.4), ("third", 0.99, 0.1)):
            found = Figures(value, 1, 1, {"loss": loss, "rank": 7.0})
            proof.run(arm, lambda seed, found=found: found)

    system = system_of({}, prove=prove)
    assert reproduce(system, Proof(), tmp_path / "plain").verdict == "holds"
    result = reproduce(replace(system, conditions=(condition,)), Proof(), tmp_path)
    assert result.verdict == verdict
    assert read_result(tmp_path / "13-bignas.json") == result
    stored = read_result(tmp_path / "plain" / "13-bignas.json")
    assert judge(replace(system, conditions=(condition,)), stored).verdict == verdict


def test_a_condition_on_what_was_not_measured_is_refused(tmp_path: Path) -> None:
    for condition in (Condition("ours", "third"), Condition("ours", "plain", 0.0, "loss")):
        with pytest.raises(InputError, match="a condition asks for"):
            reproduce(system_of(ARMS, conditions=(condition,)), Proof(), tmp_path)


def test_stored_results_are_judged_as_their_systems_ask_now() -> None:
    for system in built().values():
        path = results_folder() / f"{system.number:02}-{system.name}.json"
        if path.is_file():
            stored = read_result(path)
            assert stored == judge(system, stored), "run docs/system_pages.py"
            assert json.loads(path.read_text())["verdict"] == stored.verdict


def test_a_proof_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    calls: list[tuple[str, int]] = []

    def arm(name: str, fails_at: int | None = None) -> Callable[[int], Figures]:
        def measure(seed: int) -> Figures:
            calls.append((name, seed))
            if seed == fails_at:
                raise KeyboardInterrupt
            return Figures(seed / 10, 1, 1)

        return measure

    first = Proof(seeds=(0, 1), folder=tmp_path)
    first.run("a", arm("a"))
    with pytest.raises(KeyboardInterrupt):
        first.run("b", arm("b", fails_at=1))
    again = Proof(seeds=(0, 1), folder=tmp_path)
    again.run("a", arm("a"))
    again.run("b", arm("b"))
    assert calls == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 1)]
    assert again.arms["a"] == first.arms["a"]
    smaller = Proof(seeds=(0,), folder=tmp_path, budget=0.5)
    smaller.run("a", arm("a"))
    assert calls[-1] == ("a", 0), "a thinner proof keeps figures of its own"


def test_what_cannot_be_proved_is_refused(tmp_path: Path) -> None:
    for bad in ({"seeds": ()}, {"seeds": (1, 1)}, {"budget": 0.0}, {"budget": 1.5}):
        with pytest.raises(InputError):
            Proof(**bad)  # type: ignore[arg-type]
    folder = tmp_path / "budget-1"
    folder.mkdir()
    (folder / "a-0.json").write_text('{"seed": 0}')
    with pytest.raises(StorageError, match="damaged"):
        Proof(seeds=(0,), folder=tmp_path).run("a", lambda seed: Figures(1, 1, 1))
    (tmp_path / "x.json").write_text('{"verdict": "holds", "arms": {}}')
    with pytest.raises(StorageError, match="no result of a proof"):
        read_result(tmp_path / "x.json")


def test_systems_are_found_by_name_and_number(one: System) -> None:
    assert find("13") is one
    assert find("BigNAS") is one
    with pytest.raises(InputError, match="did you mean 'bignas'"):
        find("bignsa")
    with pytest.raises(InputError, match="not built yet; ready: bignas"):
        find("12")


def test_the_verbs_prove_and_list(
    one: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["reproduce", "bignas", "--out", str(tmp_path), "--seeds", "0,1"]) == 0
    shown = capsys.readouterr()
    assert "The claim holds: +0.105 against a margin of +0.1 over 2 seeds." in shown.out
    assert "ours, seed 1 ... about 0 s\nours, seed 1: 0.91" in shown.err
    monkeypatch.setattr("manynet.systems.results_folder", lambda: tmp_path)
    assert cli.main(["systems", "--json"]) == 0
    entries = {entry["number"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert entries[13]["verdict"] == "holds"
    assert entries[1] == {
        "number": 1, "name": "lighthubert", "paper": CATALOG[1][1], "built": False,
    }  # fmt: skip
    assert cli.main(["systems"]) == 0
    assert "Not built yet (49)" in capsys.readouterr().out
    assert cli.main(["reproduce", "bignas", "--seeds", "a"]) == 1
    assert "--seeds 'a' should be numbers such as 0,1,2" in capsys.readouterr().err


def test_seeds_run_side_by_side_give_what_one_after_the_other_gives(tmp_path: Path) -> None:
    options = ["--seeds", "3,4", "--share", "0.005", "--out", str(tmp_path), "--workers", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "manynet.cli", "reproduce", "weight-compander", *options],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "compander, seed 4: " in done.stderr
    together = read_result(tmp_path / "35-weight-compander.json")
    alone = Proof(seeds=(4,), budget=0.005)
    find("weight-compander").prove(alone)
    for arm, records in together.arms.items():
        assert [record.seed for record in records] == [3, 4]
        assert records[1].value == alone.arms[arm][0].value


def test_a_seed_that_fails_ends_the_others(tmp_path: Path) -> None:
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    failing = [sys.executable, "-c", "raise SystemExit(3)"]
    begun = time.monotonic()
    with pytest.raises(ManynetError, match="see what it said above"):
        run_side_by_side([sleeping, failing, sleeping], workers=2)
    assert time.monotonic() - begun < 50
