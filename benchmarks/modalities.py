"""Families of a speech model and of a vision transformer learn from real speech and real images.

`python benchmarks/modalities.py [speech] [images]` trains a small HuBERT (of `transformers`) on the
spoken digits of FSDD and a small ViT (of timm) on CIFAR-10, each as a family by the sandwich rule,
and stores the accuracy of the largest, the smallest and a middle member before and after in
`benchmarks/results/modalities.json`. Speech comes from `$MANYNET_DATA/fsdd` or
`../shared/data/fsdd`: 8 kHz recordings, index 0 to 4 are the test split.
"""

from __future__ import annotations

import io
import json
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import _measure
import manynet
from manynet.data import local_data
from manynet.train import Distill, Sandwich

SAMPLES = 6_000
"""Values a recording is cut or padded to: three quarters of a second."""
Split = tuple[Tensor, Tensor]


def speech() -> tuple[nn.Module, Split, Split]:
    """Return a small HuBERT for ten classes, and the recordings."""
    import pandas
    from transformers import HubertConfig, HubertForSequenceClassification

    folder = local_data("fsdd")
    table = pandas.concat([pandas.read_parquet(file) for file in sorted(folder.glob("*.parquet"))])
    waves = torch.stack([_wave(data) for data in table["wav"]])
    digits = torch.tensor(table["digit"].to_numpy(), dtype=torch.long)
    test = torch.tensor(table["index"].to_numpy() < 5)
    config = HubertConfig(
        hidden_size=96, num_hidden_layers=4, num_attention_heads=4, intermediate_size=192,
        conv_dim=(64, 64, 64, 64), conv_stride=(5, 4, 4, 2), conv_kernel=(10, 8, 4, 4),
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, num_labels=10,
        classifier_proj_size=96, layerdrop=0.0, mask_time_prob=0.0, hidden_dropout=0.0,
        attention_dropout=0.0, final_dropout=0.0, activation_dropout=0.0, feat_proj_dropout=0.0,
        return_dict=True,
    )  # fmt: skip
    model = HubertForSequenceClassification(config)
    return model, (waves[~test], digits[~test]), (waves[test], digits[test])


def _wave(data: bytes) -> Tensor:
    with wave.open(io.BytesIO(data)) as recording:
        raw = recording.readframes(recording.getnframes())
    values = torch.from_numpy(np.frombuffer(raw, dtype="<i2").astype("float32"))[:SAMPLES]
    values = (values - values.mean()) / values.std().clamp_min(1.0)
    return nn.functional.pad(values, (0, SAMPLES - len(values)))


def images() -> tuple[nn.Module, Split, Split]:
    """Return a small ViT for ten classes, and CIFAR-10."""
    import timm

    data = manynet.load_data("cifar10", limit=12_000)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=4, embed_dim=96, depth=6, num_heads=4,
        num_classes=10,
    )  # fmt: skip
    return model, _whole(data.train), _whole(data.test, 2_000)


def _whole(samples: torch.utils.data.Dataset, most: int | None = None) -> Split:
    pairs = [samples[i] for i in range(min(len(samples), most or len(samples)))]
    return torch.stack([x for x, _ in pairs]), torch.tensor([int(y) for _, y in pairs])


KINDS: dict[str, tuple[Callable[[], tuple[nn.Module, Split, Split]], int]] = {
    "speech": (speech, 300),
    "images": (images, 500),
}
"""What is trained, and for how many steps."""


def run(name: str) -> dict[str, object]:
    """Train one family; return the accuracies of three members before and after."""
    torch.manual_seed(0)
    make, steps = KINDS[name]
    model, training, test = make()
    family = manynet.elastic(model.train(), training[0][:2])
    print(family.report())
    space = family.space
    middle = {c.name: c.values[(len(c.values) - 1) // 2] for c in space.choices}
    archs = {"smallest": space.smallest, "middle": space.arch(middle), "largest": space.largest}

    def judged() -> dict[str, float]:
        judge = manynet.accuracy(test, batch_size=64)
        return {n: float(judge(family.extract(arch).eval())) for n, arch in archs.items()}

    before = judged()
    manynet.train(
        family, training, steps=steps, batch_size=64, optimizer="adamw", learning_rate=1e-3,
        warmup=0.1, clip=1.0, sampler=Sandwich(1), objective=Distill(labels=0.5),
    )  # fmt: skip
    weights = {n: sum(p.numel() for p in family.extract(a).parameters()) for n, a in archs.items()}
    choices = len(space.choices)
    return {"steps": steps, "choices": choices, "parameters": weights, "before": before,
            "after": judged()}  # fmt: skip


def main() -> None:
    _measure.prepare()
    path = Path(__file__).parent / "results" / "modalities.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    for name in sys.argv[1:] or KINDS:
        results[name] = run(name)
        print(name, results[name], flush=True)
        _measure.write("modalities", results)


if __name__ == "__main__":
    main()
