"""Snapshots of molecules: positions, energies and forces, read from extended XYZ files.

Letters in shapes: `M` snapshots, `N` atoms of the largest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from manynet.errors import InputError

__all__ = ["Molecules", "read_molecules"]

_SYMBOLS = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se
Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb
Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm
Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
_NUMBERS = {symbol: number for number, symbol in enumerate(_SYMBOLS.split(), start=1)}


@dataclass(frozen=True)
class Molecules:
    """Snapshots of molecules, in the units of their file: as a rule eV and angstrom.

    Attributes:
        positions: of the atoms.
        numbers: atomic numbers; 0 where a molecule has no more atoms.
        energies: in double precision, since the large part of them says nothing.
        forces: on the atoms.

    Shapes: `(M, N, 3)`, `(M, N)`, `(M,)` and `(M, N, 3)`.
    """

    positions: Tensor
    numbers: Tensor
    energies: Tensor
    forces: Tensor

    def __len__(self) -> int:
        return len(self.energies)

    def samples(self, shift: float = 0.0) -> TensorDataset:
        """Return them as a data set in single precision.

        Args:
            shift: subtracted from the energies first: the mean over what is trained on.

        Shapes: inputs `(N, 3)` and `(N,)`; targets `(1 + 3 N,)`, the energy and then the forces.
        """
        energies = (self.energies - shift)[:, None]
        targets = torch.cat([energies, self.forces.flatten(1).double()], dim=1)
        return TensorDataset(self.positions.float(), self.numbers, targets.float())


def read_molecules(path: Path | str, *, limit: int | None = None) -> Molecules:
    r"""Return the molecules of an extended XYZ file.

    Args:
        path: each snapshot has an `energy=` and the columns `species`, `pos` and `forces`.
        limit: only the first so many.

    Raises:
        InputError: the file is missing, or no such file; the message says where.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> text = "1\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-2.5\nC 0 0 1 0 0 0\n"
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder) / "one.xyz"
        ...     _ = file.write_text(text)
        ...     read_molecules(file).numbers
        tensor([[6]])
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"there is no file {file}; give the path of an extended XYZ file")
    found: list[tuple[list[int], Tensor, float]] = []
    with file.open(encoding="utf-8") as lines:
        number = 0
        while limit is None or len(found) < limit:
            head = list(islice(lines, 2))
            if not head or not head[0].strip():
                break
            try:
                count = int(head[0])
                rows = [line.split() for line in islice(lines, count)]
                if len(rows) < count:
                    raise ValueError("the file ends within a snapshot")
                found.append(_snapshot(head[1], rows))
            except (IndexError, KeyError, ValueError) as error:
                raise InputError(
                    f"{file}, line {number + 1}: this is no snapshot of an extended XYZ file with "
                    f"energy and forces ({error})"
                ) from error
            number += 2 + count
    if not found:
        raise InputError(f"{file} holds no molecule")
    return _padded(found)


def _snapshot(comment: str, rows: list[list[str]]) -> tuple[list[int], Tensor, float]:
    """Return atomic numbers, positions beside forces `(N, 6)`, and the energy."""
    words = dict(re.findall(r'(\w+)=("[^"]*"|\S+)', comment))
    columns, start = {}, 0
    parts = words["Properties"].split(":")
    for name, width in zip(parts[::3], parts[2::3], strict=True):
        columns[name] = slice(start, start + int(width))
        start += int(width)
    symbols = [row[columns["species"]][0] for row in rows]
    both = [row[columns["pos"]] + row[columns["forces"]] for row in rows]
    values = torch.tensor([[float(word) for word in row] for row in both], dtype=torch.float64)
    return [_NUMBERS[symbol] for symbol in symbols], values, float(words["energy"])


def _padded(found: list[tuple[list[int], Tensor, float]]) -> Molecules:
    longest = max(len(numbers) for numbers, _, _ in found)
    numbers = torch.zeros(len(found), longest, dtype=torch.long)
    values = torch.zeros(len(found), longest, 6, dtype=torch.float64)
    for row, (own, both, _) in enumerate(found):
        numbers[row, : len(own)] = torch.tensor(own)
        values[row, : len(own)] = both
    energies = torch.tensor([energy for _, _, energy in found], dtype=torch.float64)
    return Molecules(values[..., :3], numbers, energies, values[..., 3:])
