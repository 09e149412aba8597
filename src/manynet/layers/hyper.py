"""Weights that depend on the sample: generated anew in each forward pass.

Weights that do not depend on the sample are bindings, `manynet.bindings.hyper.hypernetwork`.
Letters of shapes: `B` batch, `K` numbers of a code, `N` numbers of a network's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from manynet.bindings.hyperfan import Fan, hyperfan_init, target_of
from manynet.errors import InputError

__all__ = ["HyperLinear", "HyperMLP", "PerSample"]


class HyperMLP(nn.Module):
    """A perceptron with ReLU from codes to the weights of a network, which start by hyperfan.

    Args:
        network: whose parameters it generates; it is not kept.
        code: `K`.
        hidden: widths of the hidden layers.
        fan: what the generated layers keep at the start.
        gain: 2 where the network has ReLU, 1 where it is linear.
        square: mean square of a number of the codes.
        seed: of the start.

    Shapes:
        Input `(B, K)`, output `(B, N)`, the parameters one after another, each row by row.
    """

    def __init__(
        self,
        network: nn.Module,
        code: int,
        *,
        hidden: Sequence[int] = (100, 100),
        fan: Fan = "in",
        gain: float = 2.0,
        square: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        widths = [code, *hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths, hidden, strict=False):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
            weight = torch.randn(outputs, inputs, generator=generator) * (2 / inputs) ** 0.5
            _set(layers[-2], weight, torch.zeros(outputs))
        shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
        rows, biases = [], []
        for name, parameter in network.named_parameters():
            target = target_of(name, shapes)
            rows.append(
                hyperfan_init(
                    target.variance(fan, gain),
                    inputs=widths[-1],
                    square=square,
                    generator=generator,
                    outputs=parameter.numel(),
                )
            )
            start = parameter.detach().flatten().float() * (target.kind == "norm")
            biases.append(start.cpu())
        head = nn.Linear(widths[-1], sum(len(row) for row in rows))
        _set(head, torch.cat(rows), torch.cat(biases))
        self.layers = nn.Sequential(*layers, head)

    def forward(self, codes: Tensor) -> Tensor:
        """Return the weights."""
        found: Tensor = self.layers(codes)
        return found


class HyperLinear(nn.Module):
    """A linear layer whose weight and bias are generated for each sample.

    Args:
        inputs: of the layer.
        outputs: of the layer.
        code: `K`.
        hidden: widths of the generator's hidden layers.
        gain: 2 where a ReLU follows, 1 where nothing does.

    Shapes:
        Input `(B, inputs)` and codes `(B, K)`, output `(B, outputs)`.

    Example:
        >>> layer = HyperLinear(6, 3, code=4, hidden=(8,))
        >>> layer(torch.zeros(5, 6), torch.randn(5, 4)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        code: int,
        hidden: Sequence[int] = (100,),
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.generator = HyperMLP(nn.Linear(inputs, outputs), code, hidden=hidden, gain=gain)

    def forward(self, x: Tensor, codes: Tensor) -> Tensor:
        """Return the layer's outputs."""
        made = self.generator(codes)
        weight, bias = made.split([self.outputs * self.inputs, self.outputs], dim=1)
        weight = weight.view(len(x), self.outputs, self.inputs)
        return torch.baddbmm(bias[:, :, None], weight, x[:, :, None])[:, :, 0]


class PerSample(nn.Module):
    """A network whose weights another network makes of each sample, or of what comes with it.

    Args:
        network: the target; only its structure is kept, none of its parameters. It has no buffers:
            take group norm in the place of batch norm, whose statistics nothing generates.
        generator: any module from codes `(B, K)` to weights `(B, N)`, such as a `HyperMLP`.
        encode: any module from a context to codes; the context itself where None.

    Raises:
        InputError: the network has buffers.

    Shapes:
        As of the network; the context has `B` rows, one a sample.

    Example:
        >>> network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> model = PerSample(network, HyperMLP(network, 6, hidden=(8,)))
        >>> x = torch.randn(5, 6)
        >>> model(x).shape, model.extract(context=x[:1])(x).shape
        (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    def __init__(
        self, network: nn.Module, generator: nn.Module, encode: nn.Module | None = None
    ) -> None:
        super().__init__()
        buffer = next((name for name, _ in network.named_buffers()), None)
        if buffer is not None:
            raise InputError(
                f"{buffer} is a buffer, which no sample can have of its own; take layers without "
                "statistics, such as group norm for batch norm"
            )
        self.generator, self.encode = generator, encode or nn.Identity()
        self._shapes = {name: p.shape for name, p in network.named_parameters()}
        # parameters of the target would be trained in vain, so only their shapes stay
        self._target = (_without_weights(network),)

    def weights(self, context: Tensor) -> dict[str, Tensor]:
        """Return the weights made of a context, by name, each with the dimension `B` in front.

        Raises:
            InputError: the generator makes another number of weights than the network has.
        """
        made = self.generator(self.encode(context))
        sizes = [shape.numel() for shape in self._shapes.values()]
        if made.shape[1] != sum(sizes):
            raise InputError(
                f"the generator makes {made.shape[1]:,} numbers, and the network has "
                f"{sum(sizes):,} weights; let its last layer have as many outputs"
            )
        parts = made.split(sizes, dim=1)
        return {
            name: part.view(len(made), *shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the outputs, each by weights of its own; by default of the sample itself."""
        target = self._target[0].train(self.training)

        def one(values: dict[str, Tensor], sample: Tensor) -> Tensor:
            found: Tensor = functional_call(target, values, (sample[None],))[0]
            return found

        weights = self.weights(x if context is None else context)
        found: Tensor = vmap(one, randomness="different")(weights, x)
        return found

    def extract(self, context: Tensor | None = None) -> nn.Module:
        """Return the network with the weights of one context: a plain module of its own.

        Args:
            context: what the weights are made of, of one row.

        Raises:
            InputError: there is no context, or several.
        """
        if context is None or len(context) != 1:
            found = "none" if context is None else f"{len(context)} rows"
            raise InputError(
                "the weights depend on the sample, so a plain network has those of one context; "
                f"found {found}: give extract(context=x) one row"
            )
        with torch.no_grad():
            values = {name: value[0].clone() for name, value in self.weights(context).items()}
        module = _without_weights(self._target[0])
        for name, value in values.items():
            owner, _, role = name.rpartition(".")
            module.get_submodule(owner)._parameters[role] = nn.Parameter(value)
        return module.train(self.training)


def _set(layer: Any, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)


def _without_weights(network: nn.Module) -> nn.Module:
    """Return a copy of a network whose parameters have shapes alone."""
    import copy

    memo = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=False)
        for p in network.parameters()
    }
    return copy.deepcopy(network, memo)
