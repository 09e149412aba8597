"""Operations on tensors without values are run once for the same shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from manynet.elastic._remembered import Remembered

ATEN = torch.ops.aten


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


CALLS: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (ATEN.addmm.default, (empty(5), empty(3, 4), empty(5, 4).t()), {}),
    (ATEN.add.Tensor, (empty(3, 1), empty(4)), {"alpha": 2}),
    (ATEN.mul.Tensor, (empty(3, dtype=torch.int64), 2), {}),
    (ATEN.mul.Tensor, (empty(3, dtype=torch.int64), 2.0), {}),
    (ATEN.gt.Scalar, (empty(2, 3).t(), 0), {}),
    (ATEN.gelu.default, (empty(2, 3, 4).permute(2, 0, 1),), {"approximate": "tanh"}),
    (ATEN.max.dim, (empty(2, 3), 1), {}),
    (ATEN.cat.default, ([empty(2, 3), empty(4, 3)],), {}),
    (ATEN._to_copy.default, (empty(2, 3),), {"dtype": torch.float16}),
]


@pytest.mark.parametrize(("func", "args", "kwargs"), CALLS, ids=lambda call: str(call)[:12])
def test_a_repeated_call_returns_a_new_tensor_of_the_same_form(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    remembered = Remembered()
    for other, given, options in CALLS:  # each beside all the others
        remembered(other, given, options)
    first, again = func(*args, **kwargs), remembered(func, args, kwargs)
    pairs = zip(first, again, strict=True) if isinstance(first, tuple) else [(first, again)]
    for one, two in pairs:
        assert one is not two
        assert (one.shape, one.stride()) == (two.shape, two.stride())
        assert (one.dtype, one.device) == (two.dtype, two.device)


def test_a_repeated_call_does_not_run() -> None:
    class Counted:
        calls = 0
        _schema = ATEN.mm.default._schema

        def __call__(self, *args: Any) -> torch.Tensor:
            self.calls += 1
            return ATEN.mm.default(*args)

    counted, remembered = Counted(), Remembered()
    for width in (4, 4, 4, 6):
        remembered(counted, (empty(2, 3), empty(3, width)), {})
    assert counted.calls == 2


def test_views_and_writes_are_the_operations_own() -> None:
    remembered, source = Remembered(), empty(2, 3)
    for _ in range(2):
        assert remembered(ATEN.add_.Tensor, (source, 1), {}) is source
        assert remembered(ATEN.t.default, (source,), {})._base is source


def test_values_are_never_remembered() -> None:
    remembered = Remembered()
    for value in (1.0, 2.0):
        assert float(remembered(ATEN.mul.Tensor, (torch.tensor(value), 3.0), {})) == 3 * value
