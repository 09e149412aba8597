"""Members as plain models of `transformers`: which can be said in a config, and what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import manynet as mn
from languages import save_model, save_tokenizer
from manynet.deploy import check_manifest, load_plain, plain_model
from manynet.errors import InputError, VerificationError

transformers = pytest.importorskip("transformers")
TOKENS = torch.randint(6, 30, (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, mn.Family]:
    parent = tmp_path_factory.mktemp("models")
    found = {}
    for kind in ("llama", "bert", "gpt2"):
        model = mn.build(f"hf:{save_model(parent / kind, kind)}").eval()
        found[kind] = mn.elastic(model, TOKENS, width=(0.25, 0.5, 1.0), uniform=True, depth=False)
    return found


@pytest.mark.parametrize("kind", ["llama", "bert", "gpt2"])
def test_every_describable_member_is_a_plain_model(
    families: dict[str, mn.Family], kind: str
) -> None:
    family = mn.describable(families[kind])
    assert family.space.count >= 9
    rng = np.random.default_rng(0)
    archs = {
        family.space.largest,
        family.space.smallest,
        *(family.space.sample(rng) for _ in "123"),
    }
    for arch in archs:
        member = family.extract(arch)
        plain = plain_model(member)
        torch.testing.assert_close(plain(TOKENS).logits, member(TOKENS).logits)
        count = sum(p.numel() for p in plain.parameters())
        assert count == sum(p.numel() for p in member.parameters())


def test_widths_and_heads_of_bert_shrink_together_or_not_at_all(
    families: dict[str, mn.Family],
) -> None:
    family = mn.describable(families["bert"])
    names = [
        "bert.embeddings.word_embeddings.width",
        "bert.encoder.layer.*.attention.self.query.width",
    ]
    pairs = {tuple(arch[name] for name in names) for arch in family.space.enumerate()}
    assert pairs == {(8, 1), (16, 2), (32, 4)}
    whole = [note.name for note in family.report().fixed if "no number for it" in note.detail]
    assert whole == ["bert.encoder.layer.*.attention.self.attention_head_size"]


def test_a_shared_family_trains_the_same_weights(families: dict[str, mn.Family]) -> None:
    family = families["llama"]
    assert mn.describable(family).shared is family.shared


def test_layers_are_numbered_without_gaps(tmp_path: Path) -> None:
    model: Any = mn.build(f"hf:{save_model(tmp_path / 'm', 'llama')}").eval()
    whole = model(TOKENS).logits
    model.model.layers[1].self_attn.o_proj.weight.data.zero_()
    model.model.layers[1].mlp.down_proj.weight.data.zero_()
    wanted = model(TOKENS).logits
    assert not torch.allclose(whole, wanted)
    model.model.layers[1] = torch.fx.symbolic_trace(_First())  # as the family leaves one out
    model.model.layers[1].forward = lambda hidden, **_: hidden
    plain = plain_model(model)
    assert plain.config.num_hidden_layers == 2
    torch.testing.assert_close(plain(TOKENS).logits, wanted)


class _First(nn.Module):
    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


def test_members_that_no_config_describes_are_refused(families: dict[str, mn.Family]) -> None:
    family = families["bert"]
    member = family.extract({"bert.encoder.layer.*.attention.self.query.width": 2})
    with pytest.raises(InputError, match="no config of BertForMaskedLM describes this member"):
        plain_model(member)
    with pytest.raises(InputError, match="has no config of transformers"):
        plain_model(nn.Linear(2, 2))


def test_a_folder_is_whole_and_loads_without_manynet(
    families: dict[str, mn.Family], tmp_path: Path
) -> None:
    family = families["llama"]
    member = family.extract(family.space.smallest)
    tokenizer = save_tokenizer(tmp_path / "tokenizer")
    manifest = mn.export_member(
        member, tmp_path / "small", TOKENS, formats=["transformers"], tokenizer=tokenizer
    )
    check_manifest(tmp_path / "small")
    weights = manifest["model.safetensors"]
    assert weights.difference is not None and weights.difference <= 1e-5
    assert {"config.json", "tokenizer.json", "generation_config.json"} <= {
        record.name for record in manifest.files
    }
    again = load_plain(tmp_path / "small")
    torch.testing.assert_close(again(TOKENS).logits, member(TOKENS).logits)
    assert transformers.AutoConfig.from_pretrained(tmp_path / "small").use_cache
    with pytest.raises(InputError, match="leave 'safetensors' out"):
        mn.export_member(member, tmp_path / "both", TOKENS, formats=["transformers", "safetensors"])


def test_a_folder_that_computes_something_else_never_appears(
    families: dict[str, mn.Family], tmp_path: Path
) -> None:
    family = families["llama"]
    member: Any = family.extract(family.space.smallest)
    member.model.norm.variance_epsilon = 0.5  # what no weight and no number of its config says
    with pytest.raises(VerificationError, match="what transformers loads differs"):
        mn.export_member(member, tmp_path / "small", TOKENS, formats=["transformers"])
    assert not (tmp_path / "small").exists()
