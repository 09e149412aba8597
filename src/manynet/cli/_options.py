"""Options and arguments that several verbs take, each with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Argument(
        metavar="CONFIG",
        help="A YAML file, or the folder of a run to go on with.",
        show_default=False,
    ),
]
Run = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="The folder of a run.", show_default=False)
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="torchvision:NAME, timm:NAME, hf:FOLDER, FILE.py:FUNCTION or manynet:small_cnn; "
        "options may follow, as in torchvision:resnet18?num_classes=10.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="digits, cifar10, a folder of images, a .parquet file, hf:NAME, text:FILE or "
        "FILE.py:FUNCTION.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Folder of the run; by default runs/NAME-N, a new one."),
]
Budget = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COST=NUMBER",
        help="The most of a cost, such as macs=2M or latency_ms=4; may be repeated.",
    ),
]
Hours = Annotated[
    float | None,
    typer.Option(metavar="NUMBER", help="About how long to take; epochs and evaluations follow."),
]
Epochs = Annotated[int | None, typer.Option(metavar="COUNT", help="Passes over the training data.")]
Evaluations = Annotated[
    int | None, typer.Option(metavar="COUNT", help="Archs that the search judges.")
]
Strategy = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="How to search: nsga2, linas (with predictors), random …"),
]
Workers = Annotated[
    int | None, typer.Option(metavar="COUNT", help="Members that the search judges at once.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="A running Ray cluster for it: HOST:6379 or auto."),
]
Seed = Annotated[int | None, typer.Option(metavar="NUMBER", help="Decides every random number.")]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda or auto.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any key of the config, such as train.batch_size=128; may be repeated.",
    ),
]
Name = Annotated[str, typer.Option(metavar="NAME", help="What the member is called.")]
Format = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="onnx, torch, safetensors or transformers; may be repeated.",
    ),
]
Host = Annotated[
    str, typer.Option(metavar="ADDRESS", help="Where to listen; others can reach 0.0.0.0.")
]
Port = Annotated[
    int, typer.Option(metavar="NUMBER", min=0, max=65535, help="0 for any that is free.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
