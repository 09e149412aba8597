"""MoS: its exact checks, and that the method behaves as others of `peft` do."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manynet.bindings.shard import assemble
from manynet.errors import InputError
from manynet.models import has_adapters, merge_adapters, without_adapters
from manynet.systems.mos_lora import SYSTEM, add_mos, trained_numbers

peft = pytest.importorskip("peft")
shard_lora = pytest.importorskip("manynet.models.shard_lora")

X = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
LLAMA_7B = {
    **{name: (4096, 4096) for name in ("q", "k", "v", "o")},
    **{name: (4096, 11008) for name in ("gate", "up")},
    "down": (11008, 4096),
}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = torch.relu(self.up(x))
        return x + self.down(hidden)  # type: ignore[no-any-return]


def network(blocks: int = 6) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*(Block() for _ in range(blocks)))


def adapted(**options: Any) -> Any:
    """Return a network with adapters whose pools hold random numbers."""
    given = {"rank": 6, "budget": 2, "private": 1, "pieces": 4, "alpha": 12.0, **options}
    torch.manual_seed(1)
    model = add_mos(network(), ["up", "down"], **given)
    fill(model)
    return model


def fill(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def layers(model: nn.Module) -> list[Any]:
    return [m for m in model.modules() if isinstance(m, shard_lora.ShardLinear)]


def ups(model: nn.Module) -> list[Any]:
    return [layer for layer in layers(model) if layer.in_features == 16]


def public_of(layer: Any, *, budget: int = 2, private: int = 1, pieces: int = 4) -> int:
    return (budget - private) * 6 * pieces


# -- the exact checks --------------------------------------------------------------------------


@pytest.mark.parametrize(("budget", "wanted"), [(1, 2_498_560), (2, 4_997_120), (8, 19_988_480)])
def test_trained_numbers_of_llama_2_7b(budget: int, wanted: int) -> None:
    assert trained_numbers(LLAMA_7B.values(), layers=32, budget=budget) == wanted


@pytest.mark.parametrize(
    "options",
    [{}, {"rank": 3}, {"pieces": 2}, {"private": 0}, {"rank": 12, "pieces": 1, "private": 0}],
)
def test_the_count_depends_on_the_budget_alone(options: dict[str, int]) -> None:
    model = adapted(**options)
    found = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found == trained_numbers([(16, 32), (32, 16)], layers=6, budget=2) == 2 * 6 * 2 * 48


def test_the_adapted_model_starts_as_the_base_bit_for_bit() -> None:
    model = add_mos(network(), ["up", "down"], rank=6)
    assert torch.equal(model(X), network()(X))
    bound = 16**-0.5
    pool = ups(model)[0].shard_A["default"].detach()
    assert 0.9 * bound < pool.abs().max() <= bound  # the fan-in is the whole vector's


@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_all_private_is_plain_lora(pieces: int) -> None:
    model = adapted(rank=3, budget=3, private=3, pieces=pieces, alpha=9.0)
    plain = peft.get_peft_model(
        network(), peft.LoraConfig(r=3, lora_alpha=9, target_modules=["up", "down"])
    )
    pairs = [
        (mine, theirs)
        for mine, theirs in zip(
            layers(model), [m for m in plain.modules() if hasattr(m, "lora_A")], strict=True
        )
    ]
    for mine, theirs in pairs:
        first, second = mine.matrices("default")
        theirs.lora_A["default"].weight.data.copy_(first)
        theirs.lora_B["default"].weight.data.copy_(second.T)
    ours, wanted = model.double()(X.double()), plain.double()(X.double())
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-6)
    ours.square().mean().backward()
    wanted.square().mean().backward()
    for mine, theirs in pairs:
        index = mine.shard_index_A["default"]
        grad = assemble(mine.shard_A["default"].grad, index, (3, mine.in_features))
        torch.testing.assert_close(grad, theirs.lora_A["default"].weight.grad, rtol=0, atol=1e-6)
        grad = assemble(mine.shard_B["default"].grad, index, (3, mine.out_features))
        torch.testing.assert_close(grad.T, theirs.lora_B["default"].weight.grad, rtol=0, atol=1e-6)


def test_a_tiny_assembly() -> None:
    pool = torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]])
    made = assemble(pool, torch.tensor([2, 0, 3, 1]), (2, 4))
    assert made.tolist() == [[5, 6, 1, 2], [7, 8, 3, 4]]


def test_plain_and_merged_forms_compute_the_same() -> None:
    wanted = adapted()(X)
    plain = shard_lora.as_lora(adapted())
    torch.testing.assert_close(plain(X), wanted, rtol=0, atol=1e-5)
    assert {n.split(".")[-3] for n in plain.state_dict() if "lora" in n} == {"lora_A", "lora_B"}
    torch.testing.assert_close(adapted().merge_and_unload()(X), wanted, rtol=0, atol=1e-5)
    model = adapted()
    model.merge_adapter()
    torch.testing.assert_close(model(X), wanted, rtol=0, atol=1e-5)
    model.unmerge_adapter()
    torch.testing.assert_close(model(X), wanted, rtol=0, atol=1e-5)
    merged = merge_adapters(adapted().get_base_model())
    assert not has_adapters(merged)
    torch.testing.assert_close(merged(X), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("low_memory", [False, True])
def test_a_saved_adapter_comes_back_with_its_indices(tmp_path: Path, low_memory: bool) -> None:
    model = adapted(seed=5)
    model.save_pretrained(tmp_path)
    names = names_in(tmp_path / "adapter_model.safetensors")
    assert sum("shard_A" in name for name in names) == 2  # each pool is written once
    again = peft.PeftModel.from_pretrained(network(), tmp_path, low_cpu_mem_usage=low_memory)
    for mine, theirs in zip(layers(model), layers(again), strict=True):
        for role in ("shard_index_A", "shard_index_B"):
            loaded = getattr(theirs, role)["default"]
            assert loaded.dtype == torch.long
            assert torch.equal(getattr(mine, role)["default"], loaded)
    assert ups(again)[0].shard_A["default"] is ups(again)[3].shard_A["default"]
    assert torch.equal(again(X), model(X))


def names_in(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return list(file.keys())


def test_the_gradient_of_a_shard_is_the_sum_over_its_uses() -> None:
    model = adapted(rank=3).double()
    found = ups(model)
    pool = found[0].shard_A["default"]
    grads = []
    for layer in found:  # each layer's own matrix as a leaf, by a hook on what it assembles
        first, second = layer.matrices("default")
        first.retain_grad()
        layer.matrices = lambda name, made=(first, second): made
        grads.append(first)
    model(X.double()).square().mean().backward()
    wanted = torch.zeros_like(pool)
    used: set[int] = set()
    for layer, first in zip(found, grads, strict=True):
        for slot, row in enumerate(layer.shard_index_A["default"].tolist()):
            assert first.grad is not None
            wanted[row] += first.grad.reshape(-1, pool.shape[1])[slot]
            used.add(row)
    torch.testing.assert_close(pool.grad, wanted, rtol=0, atol=1e-6)
    unused = sorted(set(range(len(pool))) - used)
    assert unused and not pool.grad[unused].any()


def test_a_private_shard_learns_from_its_own_layer_alone() -> None:
    model = adapted()
    found = ups(model)
    pool = found[0].shard_B["default"]
    first, second = found[2].matrices("default")
    (first.sum() + second.sum()).backward()
    public = public_of(found[2])
    reached = {row for row in pool.grad.abs().sum(1).nonzero().flatten().tolist() if row >= public}
    assert reached == set(range(public + 2 * 4, public + 3 * 4))


def test_what_the_indices_keep_to() -> None:
    model = adapted()
    for kind in (ups(model), [layer for layer in layers(model) if layer.in_features == 32]):
        blocks = []
        for layer in kind:
            public, drawn = public_of(layer), (6 - 1) * 4
            index = [getattr(layer, f"shard_index_{side}")["default"].tolist() for side in "AB"]
            for rows in index:
                assert len(set(rows)) == len(rows) == 6 * 4
                assert all(row < public for row in rows[:drawn])
            assert index[0][drawn:] == index[1][drawn:]
            assert index[0][:drawn] != index[1][:drawn]
            blocks.append(set(index[0][drawn:]))
        assert not any(a & b for a, b in itertools.combinations(blocks, 2))
        assert set.union(*blocks) == set(range(public, public + 6 * 4))


# -- what else the method promises -------------------------------------------------------------


def test_the_rank_is_that_of_the_adapter_and_not_of_the_budget() -> None:
    model = adapted()
    for layer in layers(model):
        assert torch.linalg.matrix_rank(layer.get_delta_weight("default")) == 6
    deltas = [layer.get_delta_weight("default") for layer in ups(model)]
    assert all((a - b).abs().max() > 0.1 for a, b in itertools.combinations(deltas, 2))


def test_pure_sharing_gives_all_layers_one_matrix() -> None:
    model = adapted(rank=12, private=0, pieces=1, dissociate=False)
    deltas = [layer.get_delta_weight("default") for layer in ups(model)]
    for other in deltas[1:]:
        torch.testing.assert_close(other, deltas[0], rtol=0, atol=1e-5)


def test_two_adapters_on_one_base() -> None:
    model = adapted()
    wanted = model(X)
    second = shard_lora.ShardLoraConfig(r=4, private=0, seed=9, target_modules=["up"])
    model.add_adapter("second", second)
    assert torch.equal(model(X), wanted)
    assert {n.rpartition(".")[2] for n, p in model.named_parameters() if p.requires_grad} == {
        "default"
    }
    model.set_adapter("second")
    assert torch.equal(model(X), network()(X))
    fill(model)
    assert (model(X) - network()(X)).abs().max() > 1e-3
    model.set_adapter("default")
    assert torch.equal(model(X), wanted)
    with model.disable_adapter():
        assert torch.equal(model(X), network()(X))
    with without_adapters(model):
        assert torch.equal(model(X), network()(X))
    model.delete_adapter("second")
    assert torch.equal(model(X), wanted)


def test_matrices_are_kept_outside_of_training_until_a_pool_changes() -> None:
    model = adapted(dropout=0.5).eval()
    layer = ups(model)[0]
    with torch.no_grad():
        kept = layer.matrices("default")
        assert layer.matrices("default")[0] is kept[0]
        before = model(X)
        fill_again = layer.shard_A["default"]
        fill_again.mul_(2)
        assert layer.matrices("default")[0] is not kept[0]
        assert not torch.allclose(model(X), before)
    with torch.inference_mode():
        assert torch.equal(model(X), model(X))
    assert layer.matrices("default")[0].requires_grad
    copied = copy.deepcopy(model)
    assert torch.equal(copied(X), model(X))


def test_indices_survive_half_precision() -> None:
    model = adapted().half()
    assert all(layer.shard_index_A["default"].dtype == torch.long for layer in layers(model))
    assert torch.isfinite(model(X.half())).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pieces": 5}, "5 pieces do not divide 16; try pieces=1"),
        ({"rank": 8}, r"needs 28 public shards, and there are 24; the most is r=7"),
        ({"private": 2}, "without a public part the rank is the budget"),
        ({"private": 3}, "private is from 0 to budget"),
    ],
)
def test_numbers_that_do_not_fit_say_so(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        add_mos(network(), ["up", "down"], **{"rank": 5, "budget": 2, "private": 1, **options})


def test_layers_that_are_not_linear_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1))
    with pytest.raises(InputError, match="0 is a Conv2d"):
        add_mos(model, ["0"], rank=2)


def test_the_example_runs() -> None:
    scope: dict[str, Any] = {}
    exec(SYSTEM.example, scope)
    merged = scope["merged"]
    assert not has_adapters(merged)
