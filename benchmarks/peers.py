"""Members in the family against the same extracted, here and in Once-for-All, on its own network.

`pip install --no-deps ofa` first; `python benchmarks/peers.py` writes
`benchmarks/results/peers.json`. Ours is a family made of the largest network of `ofa`'s
MobileNetV3 space; both sides switch between their own archs of the same kind.
"""

from __future__ import annotations

import copy
import itertools
import random
import warnings

import numpy as np
import torch

import _measure
import manynet
from _measure import Ratio, ratio


class Kept(dict[str, Ratio]):
    """Results that are shown and written as they come."""

    def __setitem__(self, name: str, result: Ratio) -> None:
        super().__setitem__(name, result)
        print(f"{name:<44} {result}", flush=True)
        _measure.write("peers", self)


def main() -> None:
    _measure.prepare()
    warnings.simplefilter("ignore")
    try:
        from ofa.imagenet_classification.elastic_nn.networks import OFAMobileNetV3
    except ImportError:
        print("skipped: this needs Once-for-All; pip install --no-deps ofa")
        return

    supernet = OFAMobileNetV3(
        n_classes=1000, width_mult=1.0, ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6],
        depth_list=[2, 3, 4],
    ).eval()  # fmt: skip
    supernet.set_active_subnet(ks=7, e=6, d=4)
    network = supernet.get_active_subnet().eval()
    family = manynet.elastic(
        network, torch.zeros(1, 3, 96, 96), width=(0.5, 0.75, 1.0), kernel=True, importance=None
    ).eval()
    results = Kept()
    archs = {"smallest": (3, 3, 2), "largest": (7, 6, 4)}
    with torch.inference_mode():
        for size, (kernel, expand, depth) in archs.items():
            supernet.set_active_subnet(ks=kernel, e=expand, d=depth)
            theirs = supernet.get_active_subnet().eval()
            arch = getattr(family.space, size)
            member, alone = family.at(arch), family.extract(arch)
            for batch in (1, 8):
                x = torch.randn(batch, 3, 96, 96)
                results[f"ofa forward {size} batch {batch}"] = ratio(
                    lambda x=x: supernet(x), lambda x=x, m=theirs: m(x)
                )
                results[f"manynet forward {size} batch {batch}"] = ratio(
                    lambda x=x, m=member: m(x), lambda x=x, m=alone: m(x)
                )
            results[f"ofa extract {size} / deep copy"] = ratio(
                supernet.get_active_subnet, lambda m=theirs: copy.deepcopy(m)
            )
            results[f"manynet extract {size} / deep copy"] = ratio(
                lambda a=arch: family.extract(a), lambda m=alone: copy.deepcopy(m)
            )
        x = torch.randn(1, 3, 96, 96)
        supernet.set_active_subnet(ks=3, e=3, d=2)
        smallest = supernet.get_active_subnet().eval()
        random.seed(0)
        settings = itertools.cycle([supernet.sample_active_subnet() for _ in range(50)])
        results["ofa switch / forward of the smallest"] = ratio(
            lambda: supernet.set_active_subnet(**next(settings)), lambda: smallest(x)
        )
        rng = np.random.default_rng(0)
        seen = [family.space.sample(rng) for _ in range(50)]
        for arch in seen:
            family.at(arch)
        turn = itertools.cycle(seen).__next__
        own = family.at(family.space.smallest)
        results["manynet switch / forward of the smallest"] = ratio(
            lambda: family.at(turn()), lambda: own(x)
        )


if __name__ == "__main__":
    main()
