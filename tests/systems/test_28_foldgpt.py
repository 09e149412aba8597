"""FoldGPT: its exact checks, on a decoder small enough to be quick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import manynet as mn
from manynet.bindings import neighbors
from manynet.elastic import Gates, KnownImportance, remove_blocks
from manynet.errors import InputError
from manynet.systems._foldgpt_proof import strangers
from manynet.systems.foldgpt import SYSTEM, cure, fold

transformers = pytest.importorskip("transformers")

TOKENS = torch.randint(50, (6, 17), generator=torch.Generator().manual_seed(0))
X, Y = TOKENS[:, :-1], TOKENS[:, 1:]
LAYERS = [f"model.layers.{n}" for n in range(6)]


def llama(**changes: Any) -> Any:
    torch.manual_seed(0)
    numbers = {
        "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    config = transformers.LlamaConfig(
        **{**numbers, **changes}, initializer_range=0.2, tie_word_embeddings=True,
        use_cache=False, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model


def scored(*removed: int) -> KnownImportance:
    """Return an importance by which these blocks of six go first."""
    return KnownImportance({path: float(n not in removed) for n, path in enumerate(LAYERS)})


def test_removed_blocks_are_gone_and_the_rest_is_the_same() -> None:
    model = llama()
    small: Any = remove_blocks(model, X, 2, importance=scored(1, 4))
    del model.model.layers[4], model.model.layers[1]
    for number, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = number
    assert torch.equal(small(X).logits, model(X).logits)
    assert [layer.self_attn.layer_idx for layer in small.model.layers] == [0, 1, 2, 3]
    assert small.config.num_hidden_layers == 4


def test_groups_of_one_and_groups_that_are_equal_already_change_nothing() -> None:
    model = llama()
    wanted = model(X).logits
    assert torch.equal(fold(model, neighbors(LAYERS, 1)).eval().at({})(X).logits, wanted)
    parent, child = model.model.layers[2], model.model.layers[3]
    for name, parameter in child.named_parameters():
        if parameter.dim() > 1:
            parameter.data.copy_(parent.get_parameter(name))
    family = fold(model, [LAYERS[2:4]]).eval()
    assert torch.equal(family.at({})(X).logits, model(X).logits)
    assert torch.equal(family.extract({})(X).logits, model(X).logits)


def test_the_parameters_of_smollm2_are_those_of_the_sheet() -> None:
    numbers = {
        "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    }  # fmt: skip
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**numbers))

    def count(module: nn.Module | mn.Family) -> int:
        return sum(p.numel() for p in module.parameters())

    assert count(model.model.layers[0]) == 3_540_096
    assert count(model) == 134_515_008
    # all shapes and no values: ties are checked one after the other
    family = mn.elastic(model, X, width=None, importance=None)
    small = family.extract({family.blueprint.depths[0].choice: 24})
    assert count(small) == 113_274_432
    paths = [f"model.layers.{n}" for n in range(24)]
    folded = fold(small, neighbors(paths))
    assert count(folded) == 70_807_104
    assert count(folded.extract({})) == 70_807_104


def test_the_file_holds_each_parent_once_and_is_read_again(tmp_path: Path) -> None:
    small: Any = remove_blocks(llama(), X, 2, importance=scored(1, 4))
    family = fold(small, [LAYERS[1:3]]).eval()
    family.save(tmp_path)
    stored = family.state_dict()
    assert "model.layers.1.mlp.up_proj.weight" in stored
    assert "model.layers.2.mlp.up_proj.weight" not in stored
    assert {f"model.layers.{n}.input_layernorm.weight" for n in (1, 2)} <= stored.keys()
    expected = sum(tensor.nbytes for tensor in stored.values())
    assert expected <= (tmp_path / "family.safetensors").stat().st_size < expected + 20_000
    again = mn.load(tmp_path, transformers.LlamaForCausalLM(small.config)).eval()
    assert torch.equal(again.at({})(X).logits, family.at({})(X).logits)


def test_a_parent_learns_from_all_its_call_sites() -> None:
    model = llama()
    family = fold(model, [LAYERS[2:5]])
    member: Any = family.at({})
    member(X, labels=X).loss.backward()
    found = dict(family.named_parameters())["model.layers.2.mlp.up_proj.weight"].grad
    apart: Any = family.extract({})
    layers = apart.model.layers
    for number in (3, 4):  # the same values, each in a tensor of its own
        weight = layers[2].mlp.up_proj.weight
        layers[number].mlp.up_proj.weight = nn.Parameter(weight.detach().clone())
    apart(X, labels=X).loss.backward()
    expected = sum(layers[number].mlp.up_proj.weight.grad for number in (2, 3, 4))
    torch.testing.assert_close(found, expected)


def test_text_written_with_a_cache_is_that_without() -> None:
    small = remove_blocks(llama(), X, 2, importance=scored(0, 3))
    member: Any = fold(small, [LAYERS[1:3]]).eval().extract({})
    ids = X[:1, :5]
    options = {"do_sample": False, "max_new_tokens": 10, "pad_token_id": 0}
    cached = member.generate(ids, use_cache=True, **options)
    for _ in range(10):
        ids = torch.cat([ids, member(ids).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(cached, ids)
    filled = member(ids, use_cache=True).past_key_values
    assert len(filled.layers) == 4
    keys = [layer.keys for layer in filled.layers]
    assert not torch.equal(keys[1], keys[2]), "the blocks of a group keep keys of their own"


def test_the_cure_moves_norms_alone_and_nothing_of_the_original() -> None:
    model = llama()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    family = fold(model, [LAYERS[2:4]])
    start = {name: tensor.clone() for name, tensor in family.state_dict().items()}
    cure(family, model, (X, Y), steps=3, batch_size=3)
    for name, tensor in family.state_dict().items():
        moved = not torch.equal(tensor, start[name])
        assert moved == ("norm" in name), name
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in family.parameters())
    assert not model.config.output_hidden_states
    cure(family, model, (X, Y), steps=1, batch_size=3, trained="all")
    weight = "model.layers.2.mlp.up_proj.weight"
    assert not torch.equal(family.state_dict()[weight], start[weight])
    with pytest.raises(InputError, match='use "norms" or "all"'):
        cure(family, model, (X, Y), steps=1, trained="some")


def test_the_cure_brings_a_folded_model_nearer_to_the_original() -> None:
    model = llama()
    wanted = model(X).logits.detach().log_softmax(-1)

    def away(family: mn.Family) -> float:
        said = family.at({})(X).logits.detach().log_softmax(-1)
        return float(nn.functional.kl_div(said, wanted, reduction="batchmean", log_target=True))

    family = fold(model, [LAYERS[2:4]]).eval()
    start = away(family)
    cure(family, model, (X, Y), steps=40, batch_size=6)
    assert away(family) < 0.85 * start


def test_gates_leave_the_weights_and_rank_the_blocks_of_a_decoder() -> None:
    model = llama()
    with torch.no_grad():  # blocks that write nothing
        for number in (1, 3):
            for name in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
                model.model.layers[number].get_parameter(name).zero_()
    wanted = model(X).logits.detach()
    data = [(X, wanted.argmax(-1))]
    small = remove_blocks(model, X, 2, data=data, importance=Gates(keep=4 / 6, steps=40))
    torch.testing.assert_close(small(X).logits, wanted)


def test_the_example_runs_on_a_model_of_another_kind(capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, Any] = {}
    exec(SYSTEM.example, found)
    small, folded = found["small"], found["folded"]
    assert small.config.n_layer == 4
    blocks = small.transformer.h
    assert blocks[1].mlp.c_fc.weight is blocks[2].mlp.c_fc.weight
    assert blocks[1].ln_1.weight is not blocks[2].ln_1.weight
    assert torch.equal(small(found["inputs"]).logits, folded.at({})(found["inputs"]).logits)
    assert "bytes of the largest member" in capsys.readouterr().out


def test_strangers_are_pairs_of_all_blocks_and_none_of_neighbors() -> None:
    """A fixed shift by half of them was a loop over whole blocks, which harms less than pairs."""
    drawn = [strangers(range(8, 20), seed) for seed in range(5)]
    for pairs in drawn:
        assert sorted(n for pair in pairs for n in pair) == list(range(8, 20))
        assert all(last - first > 1 for first, last in pairs)
    assert drawn[0] != drawn[1]
    assert drawn[0] == strangers(range(8, 20), 0)
