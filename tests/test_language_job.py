"""The language-model job: a model and a text in, folders that `transformers` loads out."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import manynet as mn
from languages import TEXT, save_model
from manynet.config import resolve
from manynet.deploy import check_manifest
from manynet.errors import InputError, ManynetError
from manynet.models import has_adapters, language_model, tokenizer_of
from manynet.run import RunResult, run_config

transformers = pytest.importorskip("transformers")


def job(tmp_path: Path, kind: str, **sections: Any) -> RunResult:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    values: dict[str, Any] = {
        "model": f"hf:{save_model(tmp_path / kind, kind)}",
        "data": {"name": f"text:{text}", "length": 16},
        "search": {"evaluations": 4},
        "deploy": {"members": 2},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return run_config(resolve(values), folder=tmp_path / "run")


@pytest.mark.parametrize("train", [{}, {"lora": {"rank": 2}, "checkpointing": True}])
def test_llama_goes_in_and_plain_transformers_models_come_out(
    tmp_path: Path, train: dict[str, Any]
) -> None:
    result = job(tmp_path, "llama", train=train)
    assert result.front.metric == "perplexity" and not result.front.higher_is_better
    assert {"bytes", "macs", "kv_cache_bytes", "token_ms"} == set(result.record.costs)
    best = min(result.front, key=lambda record: record.quality)
    assert result.record.quality >= best.quality
    for folder in sorted((tmp_path / "run" / "members").iterdir()):
        check_manifest(folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert not has_adapters(model)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokens = tokenizer("The cat red", return_tensors="pt")["input_ids"]
        written = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), min_new_tokens=4, max_new_tokens=4
        )
        assert written.shape == (1, tokens.shape[1] + 4)
    assert "test_perplexity" in next(iter(result.summary["members"].values()))["notes"]


def test_training_brings_the_perplexity_down(tmp_path: Path) -> None:
    train = {"objective": "task", "epochs": 6, "learning_rate": 0.01}
    result = job(tmp_path, "llama", train=train)
    before = mn.perplexity(mn_text(tmp_path).val)(mn.build(f"hf:{tmp_path / 'llama'}"))
    assert max(record.quality for record in result.front) < before / 2


def mn_text(tmp_path: Path) -> mn.Data:
    tokenizer = tokenizer_of(str(tmp_path / "llama"))
    return mn.load_data(f"text:{tmp_path / 'text.txt'}", tokenizer=tokenizer, length=16)


def test_bert_learns_masked_tokens(tmp_path: Path) -> None:
    result = job(tmp_path, "bert")
    assert result.front.metric == "perplexity"
    assert set(result.record.costs) == {"bytes", "macs", "latency_ms"}
    folder = next((tmp_path / "run" / "members").iterdir())
    assert transformers.AutoModelForMaskedLM.from_pretrained(folder).config.model_type == "bert"


def test_bert_gets_a_head_for_labels(tmp_path: Path) -> None:
    rows = [
        f"the {word} owl sat on the {place}\t{int(word == 'red')}"
        for word in ("red", "old", "shy", "big")
        for place in ("mat", "log", "hill") * 5
    ]
    (tmp_path / "labels.tsv").write_text("\n".join(rows))
    result = job(tmp_path, "bert", data={"name": f"text:{tmp_path / 'labels.tsv'}"})
    assert result.front.metric == "accuracy"
    folder = next((tmp_path / "run" / "members").iterdir())
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.num_labels == 2


def test_a_run_goes_on_where_it_was(tmp_path: Path) -> None:
    first = job(tmp_path, "gpt2", elastic={"depth": False})
    again = job(tmp_path, "gpt2", elastic={"depth": False})
    assert again.summary == first.summary


@pytest.mark.parametrize("teacher", ["largest", "original"])
def test_the_model_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: str
) -> None:
    read: list[str] = []

    def counted(name: str, **options: Any) -> torch.nn.Module:
        read.append(name)
        return language_model(name, **options)

    building = importlib.import_module("manynet.models.build")
    monkeypatch.setattr(building, "language_model", counted)
    result = job(tmp_path, "gpt2", elastic={"depth": False}, train={"teacher": teacher})
    assert len(result.front) > 0
    assert read == [str(tmp_path / "gpt2")]


def test_each_layer_may_have_its_own_width(tmp_path: Path) -> None:
    result = job(
        tmp_path,
        "llama",
        elastic={"uniform": False},
        deploy={"formats": ["safetensors"], "members": 1},
    )
    assert any(name.startswith("model.layers.0.mlp") for name in result.record.arch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["train"].update(lora={"rank": 2}), "train.lora is for language models"),
        (lambda c: c.update(model="hf:nowhere", data="digits"), "no model of that name"),
        (lambda c: c["data"].update(name="text:nothing.txt"), "needs the tokenizer"),
    ],
)
def test_what_does_not_fit_is_said_first(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    values: dict[str, Any] = {"data": {"name": "digits"}, "train": {}}
    change(values)
    with pytest.raises(InputError, match=message):
        run_config(resolve(values), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_classifier_has_no_cache_to_search(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kv_cache_bytes is a cost of writing text"):
        job(tmp_path, "bert", search={"costs": ["bytes", "kv_cache_bytes"]})


def test_the_page_draws_the_perplexity_while_training(tmp_path: Path) -> None:
    result = job(tmp_path, "gpt2", elastic={"depth": False}, train={"epochs": 2})
    page = result.report.read_text()
    assert "perplexity of the largest, the smallest and random members by step" in page
    assert list((tmp_path / "run" / "figures").glob("training-perplexity.svg"))


def refused(tmp_path: Path, kind: str, query: str = "", **sections: Any) -> str:
    folder = tmp_path / kind
    if not folder.exists():
        save_model(folder, kind)
    (tmp_path / "text.txt").write_text(TEXT)
    values: dict[str, Any] = {
        "model": f"hf:{folder}{query}",
        "data": {"name": f"text:{tmp_path / 'text.txt'}", "length": 16},
    }
    values = {**values, **sections}
    with pytest.raises(ManynetError) as caught:
        run_config(resolve(values), folder=tmp_path / "run")
    return str(caught.value)


def test_weights_that_were_cut_off_are_told(tmp_path: Path) -> None:
    file = save_model(tmp_path / "llama", "llama") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:20_000])
    message = refused(tmp_path, "llama")
    assert "model.safetensors cannot be read" in message
    assert "damaged or cut off" in message


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_texts_longer_than_the_table_of_positions_are_told(tmp_path: Path, kind: str) -> None:
    name = f"text:{tmp_path / 'text.txt'}"
    message = refused(tmp_path, kind, data={"name": name, "length": 65})
    assert "data.length is 65 tokens" in message
    assert "has 64 positions; try --set data.length=64" in message


def test_a_task_that_does_not_exist_is_told(tmp_path: Path) -> None:
    assert "task='maksed' is unknown (did you mean 'masked'?)" in refused(
        tmp_path, "bert", "?task=maksed"
    )


def test_images_for_a_language_model_are_told(tmp_path: Path) -> None:
    message = refused(tmp_path, "llama", data={"name": "digits"})
    assert "reads tokens, and the samples of digits are no integers" in message
