"""Energy from counters that this machine may not have: trees and libraries that play them."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import manynet as mn
from manynet.cost import _energy
from manynet.errors import InputError

INPUTS = (torch.zeros(1, 4),)


def tree(root: Path, **packages: int) -> Path:
    """Make what Linux shows: packages, a part of one, and a domain that is no package."""
    for number, (name, count) in enumerate(packages.items()):
        folder = root / f"intel-rapl:{number}"
        folder.mkdir(parents=True)
        (folder / "name").write_text(name.replace("_", "-") + "\n")
        (folder / "energy_uj").write_text(f"{count}\n")
        (folder / "max_energy_range_uj").write_text("1000000\n")
    part = root / "intel-rapl:0:0"
    part.mkdir()
    (part / "name").write_text("core\n")
    (part / "energy_uj").write_text("777\n")
    return root


class Burning(nn.Module):
    """A network each pass of which uses some energy of each package, as the files tell."""

    def __init__(self, root: Path, microjoules: int) -> None:
        super().__init__()
        self.root, self.microjoules, self.passes = root, microjoules, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        for file in self.root.glob("intel-rapl:?/energy_uj"):
            file.write_text(str((int(file.read_text()) + self.microjoules) % 1_000_000))
        return x


def test_all_packages_count_and_nothing_else(tmp_path: Path) -> None:
    root = tree(tmp_path, package_0=1000, package_1=2000, psys=5)
    cost = mn.energy(seconds=0.02, powercap=root)
    assert (cost.name, cost.unit, cost.measured) == ("energy_mj", "mJ", True)
    found = cost.measure(Burning(root, 250), INPUTS)
    assert found.millijoules == pytest.approx(0.5)
    assert found.meter == "RAPL package-0, package-1"
    assert found.watts == pytest.approx(found.millijoules * found.passes / 1e3 / found.seconds)
    assert cost(Burning(root, 100), INPUTS) == pytest.approx(0.2)


def test_a_counter_that_turns_over_is_followed(tmp_path: Path) -> None:
    root = tree(tmp_path, package_0=999_000)
    meter = _energy.Rapl(root)
    before = meter.joules()
    (root / "intel-rapl:0" / "energy_uj").write_text("500")
    assert meter.joules() - before == pytest.approx(0.0015)


def test_a_machine_without_a_counter_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no package of RAPL under .*macs\(\) or latency\(\)"):
        mn.energy(powercap=tmp_path)
    with pytest.raises(InputError, match="no counter of energy for meta"):
        mn.energy("meta", powercap=tmp_path)


def test_a_counter_that_stands_still_is_told(tmp_path: Path) -> None:
    cost = mn.energy(seconds=0.01, powercap=tree(tmp_path, package_0=5))
    with pytest.raises(InputError, match="has counted nothing in"):
        cost(nn.Identity(), INPUTS)


def test_a_counter_for_root_alone_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, read = tree(tmp_path, package_0=5), Path.read_text

    def refused(path: Path, *given: Any, **named: Any) -> str:
        if path.name == "energy_uj":
            raise PermissionError
        return read(path, *given, **named)

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(InputError, match=r"sudo chmod a\+r .*energy_uj"):
        mn.energy(powercap=root)


def test_a_counter_that_is_no_number_is_told(tmp_path: Path) -> None:
    root = tree(tmp_path, package_0=5)
    (root / "intel-rapl:0" / "energy_uj").write_text("many")
    with pytest.raises(InputError, match="energy_uj cannot be read"):
        mn.energy(powercap=root)


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"batch": 0}, {"seconds": 0.0}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="all should be positive"):
        mn.energy(**wrong)


class FakeNvml:
    """Plays the driver's library: a GPU that has used 5 J, and then 7 J."""

    def __init__(self, code: int = 0) -> None:
        self.code, self.asked, self.used = code, b"", [5000, 5000, 7000]

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        self.asked = uuid
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, found: Any) -> int:
        ctypes.cast(found, ctypes.POINTER(ctypes.c_ulonglong))[0] = self.used.pop(0)
        return self.code


def test_a_gpu_is_found_by_its_own_name_and_read_in_joules() -> None:
    library = FakeNvml()
    meter = _energy.Nvml(torch.device("cuda", 0), library=library, uuid="GPU-1234")
    assert library.asked == b"GPU-1234"
    assert meter.joules() == 5.0
    assert meter.joules() == 7.0


def test_a_gpu_that_counts_nothing_says_so() -> None:
    with pytest.raises(InputError, match=r"NVML cuda:0 tells no energy: .* returned 3"):
        _energy.Nvml(torch.device("cuda", 0), library=FakeNvml(3), uuid="GPU-1234")


def test_a_machine_without_the_library_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(InputError, match=r"NVML cannot be loaded: libnvidia-ml\.so\.1"):
        _energy.Nvml(torch.device("cuda", 0), uuid="GPU-1234")
