"""Peak memory of ten training steps: `_peak.py NETWORK BATCH largest|sandwich|drawn`.

Each in a process of its own. A sandwich is the largest, the smallest and two more: the same two in
every step, or `drawn` anew. Prints how many MiB the steps added to what the process held when
everything was loaded.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch

import manynet
from _measure import forget_peak, held_mib, peak_mib
from _networks import LARGE, NETWORKS


def main() -> None:
    torch.set_num_threads(1)
    name, batch, mode = sys.argv[1:]
    model, inputs = {**NETWORKS, **LARGE}[name](int(batch))
    family = manynet.elastic(model.train(), tuple(x[:1] for x in inputs), importance=None)
    network = family.extract(family.space.largest)
    rng = np.random.default_rng(0)
    before = held_mib()
    forget_peak()
    if mode == "largest":
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    else:
        optimizer = torch.optim.SGD(family.parameters(), lr=1e-3, momentum=0.9)
        family.guard(optimizer)
    space = family.space
    fixed = [space.largest, space.smallest, space.sample(rng), space.sample(rng)]
    for _ in range(10):
        optimizer.zero_grad()
        drawn = [*fixed[:2], space.sample(rng), space.sample(rng)]
        for arch in {"largest": [None], "sandwich": fixed, "drawn": drawn}[mode]:
            member = network if arch is None else family.at(arch)
            member(*inputs).float().square().mean().backward()
        optimizer.step()
    print(json.dumps({"mib": peak_mib() - before}))


if __name__ == "__main__":
    main()
