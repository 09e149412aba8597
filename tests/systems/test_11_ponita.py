"""PONITA: the exact checks of its definition, in double precision."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manynet as mn
from manynet.errors import InputError
from manynet.graphs import EnergyForces, Ponita, RandomlyTurned, radius_edges
from manynet.layers import (
    SeparableGroupConv,
    calibrate_kernels,
    envelope,
    lift_vectors,
    pair_invariants,
    random_rotations,
    read_vectors,
)
from manynet.systems.ponita import SYSTEM, force_field, train_force_field, with_grids

F64 = {"dtype": torch.float64}
OCTAHEDRON = torch.cat([torch.eye(3, **F64), -torch.eye(3, **F64)])
GOLDEN = (1 + 5**0.5) / 2
ICOSAHEDRON = nn.functional.normalize(
    torch.tensor(
        [
            corner[shift:] + corner[:shift]
            for a in (1, -1)
            for b in (GOLDEN, -GOLDEN)
            for corner in [[0.0, a, b]]
            for shift in range(3)
        ],
        **F64,
    ),
    dim=1,
)


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def points(nodes: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return scalars, positions, edges with loops, and vectors."""
    generator = seeded(1)
    positions = torch.randn(nodes, 3, generator=generator, **F64)
    edges = radius_edges(positions[None], torch.ones(1, nodes, dtype=torch.bool), 2.5)
    return (
        torch.randn(nodes, 2, generator=generator, **F64),
        positions,
        edges,
        torch.randn(nodes, 1, 3, generator=generator, **F64),
    )


def network(grid: Tensor | None = None, **options: object) -> Ponita:
    torch.manual_seed(0)
    shape = {"channels": 8, "basis": 12, "depth": 2, "radius": 3.0, **options}
    if grid is not None or shape.get("orientations", 1) != 0:
        shape = {"vectors": 1, "vector_outputs": 1, **shape}
    return Ponita(2, grid=grid, **shape).double().eval()  # type: ignore[arg-type]


def turned(turn: Tensor, *vectors: Tensor) -> list[Tensor]:
    return [v @ turn.T for v in vectors]


def about_z(degrees: float) -> Tensor:
    angle = math.radians(degrees)
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]], **F64)


@pytest.mark.parametrize("separable", [True, False])
def test_turning_molecule_and_grid_together_turns_vectors_alone(separable: bool) -> None:
    scalars, positions, edges, vectors = points()
    turn = random_rotations(1, generator=seeded(3), like=positions)[0]
    grid = nn.functional.normalize(torch.randn(7, 3, generator=seeded(2), **F64), dim=1)
    model = network(grid, separable=separable, complete=not separable)
    found, arrows = model(scalars, positions, edges, vectors)
    model.grid = grid @ turn.T
    again, after = model(scalars, *turned(turn, positions), edges, *turned(turn, vectors))
    assert torch.allclose(again, found, atol=1e-9, rtol=0)
    assert torch.allclose(after, arrows @ turn.T, atol=1e-9, rtol=0)
    moved, still = model(scalars, positions @ turn.T + 3.0, edges, vectors @ turn.T)
    assert torch.allclose(moved, found, atol=1e-9) and torch.allclose(still, after, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"complete": True}])
def test_an_orientation_for_each_edge_is_exact(options: dict[str, bool]) -> None:
    scalars, positions, edges, vectors = points()
    model = network(orientations=-1, **options)
    found, arrows = model(scalars, positions, edges, vectors)
    turn = random_rotations(1, generator=seeded(3), like=positions)[0]
    again, after = model(scalars, *turned(turn, positions), edges, *turned(turn, vectors))
    assert torch.allclose(again, found, atol=1e-9, rtol=0)
    assert torch.allclose(after, arrows @ turn.T, atol=1e-9, rtol=0)
    assert float(arrows.detach().abs().max()) > 1e-6 and float(found.detach().std()) > 1e-6


def test_distances_alone_are_exact_and_offsets_are_not() -> None:
    scalars, positions, edges, _ = points()
    turn = random_rotations(1, generator=seeded(3), like=positions)[0]
    for share, same in (("motions", True), ("translations", False)):
        model = network(orientations=0, share=share)
        found, again = (model(scalars, p, edges)[0] for p in (positions, positions @ turn.T))
        assert torch.allclose(found, again, atol=1e-9, rtol=0) is same
        assert torch.allclose(found, model(scalars, positions - 2, edges)[0], atol=1e-9, rtol=0)


def test_turns_of_the_octahedron_are_exact_and_others_are_not() -> None:
    scalars, positions, edges, vectors = points()
    model = network(OCTAHEDRON)
    found, _ = model(scalars, positions, edges, vectors)

    def after(turn: Tensor) -> Tensor:
        again, _ = model(scalars, positions @ turn.T, edges, vectors @ turn.T)
        return (again - found).detach().abs().max()

    assert float(after(about_z(90))) < 1e-9
    assert float(after(about_z(45))) > 1e-6
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0], **F64))
    model.grid = OCTAHEDRON @ mirror
    assert float(after(mirror)) < 1e-9


@pytest.mark.parametrize("grid", [OCTAHEDRON, ICOSAHEDRON], ids=["octahedron", "icosahedron"])
def test_a_lifted_vector_comes_back_at_a_third(grid: Tensor) -> None:
    vectors = torch.randn(4, 2, 3, generator=seeded(), **F64)
    assert torch.allclose(read_vectors(lift_vectors(vectors, grid), grid), vectors / 3, atol=1e-14)


def test_the_separable_layer_is_the_dense_one_with_the_product_of_kernels() -> None:
    nodes, count, channels, basis = 4, 5, 3, 6
    generator = seeded()
    x = torch.randn(nodes, count, channels, generator=generator, **F64)
    edges = torch.tensor([[0, 1, 2, 3, 1, 0], [1, 0, 1, 2, 3, 0]])
    spatial = torch.randn(edges.shape[1], count, basis, generator=generator, **F64)
    fiber = torch.randn(count, count, basis, generator=generator, **F64)
    conv = SeparableGroupConv(channels, basis).double().eval()
    nn.init.normal_(conv.bias, generator=generator)
    assert conv.fiber is not None
    k, f = conv.kernel(spatial), conv.fiber(fiber)
    wanted = conv.bias.expand(nodes, count, channels).clone()
    for edge, (sender, receiver) in enumerate(edges.T.tolist()):
        for o in range(count):
            for other in range(count):
                wanted[receiver, other] += k[edge, o] * f[o, other] * x[sender, o] / count
    assert torch.allclose(conv(x, edges, spatial, fiber), wanted, atol=1e-10, rtol=0)


def test_parameters_of_the_recipe_for_rmd17() -> None:
    assert sum(p.numel() for p in Ponita(9).parameters()) == 1_058_437


def test_the_envelope_is_flat_where_it_ends() -> None:
    x = torch.tensor([0.0, 0.5, 1.0 - 1e-12, 1.0], requires_grad=True, **F64)
    u = envelope(x)
    assert u.tolist() == pytest.approx([1.0, 0.85546875, 0.0, 0.0], abs=1e-12)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    assert slope[2:].tolist() == pytest.approx([0, 0], abs=1e-9)
    assert bend[2:].tolist() == pytest.approx([0, 0], abs=1e-9)


def test_kernels_are_calibrated_once_in_training() -> None:
    scalars, positions, edges, vectors = points()
    model = network(OCTAHEDRON)
    seen: dict[str, Tensor] = {}
    conv = model.layers[0].conv
    conv.register_forward_hook(
        lambda m, given, out: seen.update(x=given[0].detach(), z=out.detach())
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(scalars, positions, edges, vectors)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    model.train()(scalars, positions, edges, vectors)[0].sum().backward()
    after = {name: p.detach().clone() for name, p in model.named_parameters()}
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {
        f"layers.{n}.conv.{part}.weight" for n in (0, 1) for part in ("kernel", "fiber")
    }
    for module in (model.train(), model.eval()):
        module(scalars, positions, edges, vectors)
        assert all(torch.equal(p, after[n]) for n, p in model.named_parameters())
    assert float(seen["z"].std() / seen["x"].std()) == pytest.approx(1, rel=1e-6)
    fiber, conv.fiber = conv.fiber, None
    model(scalars, positions, edges, vectors)
    assert float(seen["z"].std() / seen["x"].std()) == pytest.approx(1, rel=1e-6)
    conv.fiber = fiber


def molecule() -> tuple[Tensor, Tensor]:
    """Return a molecule with an atom exactly along a direction of the octahedron."""
    positions = torch.tensor([[[0.0, 0, 0], [1.1, 0, 0], [0.3, 0.9, 0.2], [-0.6, 0.1, 1.0]]], **F64)
    return positions, torch.tensor([[6, 1, 8, 1]])


def field(**options: object) -> EnergyForces:
    model = network(OCTAHEDRON, vectors=0, vector_outputs=0, **options)
    model.embed = nn.Linear(3, 8, bias=False).double()
    return EnergyForces(model, (1, 6, 8), radius=2.0, scale=2.0).double()


def test_forces_are_the_slopes_of_the_energy() -> None:
    positions, numbers = molecule()
    model = field().eval()
    _, forces = model(positions, numbers)
    assert torch.isfinite(forces).all() and float(forces.abs().max()) > 1e-3
    assert forces.sum(1)[0].tolist() == pytest.approx([0, 0, 0], abs=1e-9)
    off = positions + 0.01 * torch.randn(positions.shape, generator=seeded(), **F64)
    _, forces = model(off, numbers)
    for place in range(positions.numel()):
        step = torch.zeros(positions.numel(), **F64)
        step[place] = 1e-4
        step = step.view_as(positions)
        up, down = (model.energies(off + sign * step, numbers).detach() for sign in (1, -1))
        wanted = -float(up - down) / 2e-4
        assert float(forces.flatten()[place]) == pytest.approx(wanted, abs=1e-6)


def test_training_on_forces_stays_finite_with_loops_and_atoms_along_directions() -> None:
    positions, numbers = molecule()
    model = field().train()
    energies, forces = model(positions, numbers)
    (forces.square().sum() + energies.sum()).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads and all(bool(torch.isfinite(g).all()) for g in grads)
    assert max(float(g.abs().max()) for g in grads) < 1e6


def test_a_padded_batch_is_its_molecules() -> None:
    positions, numbers = molecule()
    model = field().eval()
    both = torch.cat([positions, positions.flip(1) * 1.1]), torch.cat([numbers, numbers.flip(1)])
    both[1][1, 3] = 0
    energies, forces = model(*both)
    one, slopes = model(both[0][1:, :3], both[1][1:, :3])
    assert torch.allclose(energies[1], one[0]) and torch.allclose(forces[1, :3], slopes[0])
    assert torch.equal(forces[1, 3], torch.zeros(3, **F64))
    with pytest.raises(InputError, match="atoms of number 7"):
        model(positions, torch.full_like(numbers, 7))


def test_attributes_do_not_change_with_motions_and_their_sign_in_the_plane_tells_sides() -> None:
    generator = seeded()
    r, o, p = torch.randn(3, 50, 3, generator=generator, **F64).unbind()
    o, p = nn.functional.normalize(o, dim=1), nn.functional.normalize(p, dim=1)
    turn = random_rotations(1, generator=generator, like=r)[0]
    before = pair_invariants(r, o, p, complete=True)
    assert before.shape == (50, 4)
    assert torch.allclose(pair_invariants(*turned(turn, r, o, p), complete=True), before)
    flat, ahead = torch.tensor([[1.0, 2.0], [1.0, -2.0]]), torch.tensor([1.0, 0.0])
    assert pair_invariants(flat, ahead).tolist() == [[1, 2], [1, -2]]
    forth, back = pair_invariants(r, o), pair_invariants(-r, o)
    assert torch.allclose(forth * torch.tensor([-1.0, 1.0], **F64), back)


def test_turned_networks_turn_their_vectors_back() -> None:
    scalars, positions, edges, vectors = points()
    exact = network(orientations=-1)
    wanted = exact(scalars, positions, edges, vectors)
    model = RandomlyTurned(exact, 3).double()
    for module in (model.eval(), model.train()):
        found = module(scalars, positions, edges, vectors)
        # the turns are kept in single precision
        assert torch.allclose(found[0], wanted[0], atol=1e-4)
        assert torch.allclose(found[1], wanted[1], atol=1e-4)
    batch = torch.tensor([0, 0, 0, 1, 1, 1])
    inside = edges[:, batch[edges[0]] == batch[edges[1]]]
    found = model(scalars, positions, inside, vectors, batch)
    again = exact(scalars, positions, inside, vectors, batch)
    assert torch.allclose(found[0], again[0], atol=1e-4)
    assert torch.allclose(found[1], again[1], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"complete": True}, "both orientations"),
        ({"orientations": 0, "vectors": 1}, "only scalars"),
        ({"share": "translations"}, "no orientations"),
        ({"share": "nothing"}, "is unknown"),
    ],
)
def test_contradictions_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Ponita(2, **options)  # type: ignore[arg-type]


def test_it_becomes_a_family_of_widths_and_depths_whose_members_stay_equivariant() -> None:
    scalars, positions, edges, vectors = points()
    model = network(OCTAHEDRON, depth=3)
    calibrate_kernels(model, scalars, positions, edges, vectors)
    family = mn.elastic(model, (scalars, positions, edges, vectors), width=(0.5, 1.0))
    names = family.space.names
    assert "embed.width" in names and "layers.depth" in names
    largest = family.at(family.space.largest)(scalars, positions, edges, vectors)
    assert torch.allclose(largest[0], model(scalars, positions, edges, vectors)[0])
    turn = about_z(90)
    for arch in (family.space.smallest, family.space.largest):
        small = family.extract(arch)
        found, arrows = small(scalars, positions, edges, vectors)
        member = family.at(arch)(scalars, positions, edges, vectors)
        assert torch.allclose(member[0], found) and torch.allclose(member[1], arrows)
        again, after = small(scalars, positions @ turn.T, edges, vectors @ turn.T)
        assert torch.allclose(again, found, atol=1e-9) and torch.allclose(after, arrows @ turn.T)


def test_the_number_of_orientations_is_a_choice_and_all_members_share_the_weights() -> None:
    positions, numbers = (t.expand(4, -1, *t.shape[2:]) for t in molecule())
    targets = torch.randn(4, 13, generator=seeded())
    data = torch.utils.data.TensorDataset(positions.float(), numbers, targets)
    model = force_field(data, channels=6, basis=6, depth=1, orientations=4, radius=2.0)
    family = with_grids(model, (4, 9))
    for count in (4, 9):
        inner: Any = family.extract({"orientations": count})
        assert inner.network.network.grid.shape == (count, 3)
    before = {n: p.detach().clone() for n, p in family.named_parameters()}
    assert set(before) == {n for n, _ in model.named_parameters()}
    train_force_field(family, data, steps=3, batch_size=2, learning_rate=1e-2)
    assert any(not torch.equal(before[n], p) for n, p in family.named_parameters())
    for count in (4, 9):
        arch = {"orientations": count}
        energies, forces = family.eval().at(arch)(positions.float(), numbers)
        plain = family.extract(arch).eval()(positions.float(), numbers)
        assert torch.allclose(energies, plain[0]) and torch.allclose(forces, plain[1])


def test_the_example_runs() -> None:
    scope: dict[str, object] = {}
    exec(SYSTEM.example, scope)
    assert scope["forces"].shape == (40, 2, 3)  # type: ignore[attr-defined]
