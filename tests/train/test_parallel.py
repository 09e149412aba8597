"""Two processes that share a batch do what one does with all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from families import copied, mlp_family, rows
from safetensors.torch import load_file

from manynet.train import Distill, train
from processes import run_two

PROGRAM = """
import os, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from families import copied, mlp_family, rows
from safetensors.torch import save_file
from torch import distributed
from manynet.train import Distill, train

out, steps, ema = sys.argv[1], int(sys.argv[2]), sys.argv[3]
rank = int(os.environ["RANK"])
family = mlp_family(seed=rank, norm=True)   # the second process starts from other weights
log = train(family, rows(), steps=steps, batch_size=10, learning_rate=0.05, clip=0.5,
            log_every=1, ema=float(ema) or None, objective=Distill(label_smoothing=0.1),
            folder=out + "/run")
state = copied(family)
for name, parameter in family.named_parameters():
    state["gradient." + name] = parameter.grad.clone()
state["losses"] = torch.tensor([row["loss"] for row in log.rows])
save_file(state, f"{{out}}/{{rank}}.safetensors")
distributed.barrier()
distributed.destroy_process_group()
"""


def two_processes(folder: Path, steps: int, ema: float = 0.0) -> list[dict[str, torch.Tensor]]:
    program = PROGRAM.format(tests=str(Path(__file__).parent))
    run_two(program, str(folder), str(steps), str(ema))
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


@pytest.mark.parametrize("steps", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_two_processes_equal_one_on_the_whole_batch(tmp_path: Path, steps: int) -> None:
    family = mlp_family(norm=True)
    log = train(
        family,
        rows(),
        steps=steps,
        batch_size=10,
        learning_rate=0.05,
        clip=0.5,
        log_every=1,
        objective=Distill(label_smoothing=0.1),
    )
    alone = copied(family)
    for name, parameter in family.named_parameters():
        assert parameter.grad is not None
        alone["gradient." + name] = parameter.grad.clone()
    one, two = two_processes(tmp_path, steps)
    losses = torch.tensor([row["loss"] for row in log.rows])
    assert torch.allclose(one.pop("losses"), losses, atol=1e-6)
    assert len(two.pop("losses")) == steps  # every process knows the losses of all
    for name, tensor in alone.items():
        assert torch.equal(one[name], two[name]), name
        # sums of two halves round differently from a sum of the whole
        assert torch.allclose(one[name], tensor, atol=1e-6), name
    assert (tmp_path / "run" / "training.jsonl").read_text().count("\n") == steps
    newest = max((tmp_path / "run" / "checkpoints").iterdir())
    assert newest.name == f"step-{steps:09d}.safetensors"
