"""Numbers of heads that a module holds but that the watched forward did not read.

Attention has several ways to compute the same: one repeats keys by a number that another never
looks at. The weights of the projections say what such a number follows.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from torch import nn

from manynet.elastic._axes import Extent, Node, flatten, size_of
from manynet.elastic._record import Record

__all__ = ["heads_of"]

_GROUPS = {"num_key_value_groups", "num_kv_groups", "n_rep", "n_kv_groups"}
_HEADS = {"num_heads", "num_attention_heads", "n_heads", "n_head", "heads"}
_SHARED = {"num_key_value_heads", "num_kv_heads", "n_kv_heads"}


def heads_of(module: nn.Module, record: Record) -> dict[str, Extent]:
    """Return what the numbers of heads of an attention module follow, where its weights say it.

    Args:
        module: any module.
        record: the axes of its weights, after a run.
    """
    wanted = (_GROUPS | _HEADS | _SHARED) & vars(module).keys()
    rows = [_joined(dim) for dim in _rows(module, record)] if wanted else []
    for queries, keys in itertools.product(rows, rows):
        shared = _leading(queries, keys)
        if shared is None:
            continue
        groups = queries[len(shared) : len(queries) - len(keys) + len(shared)]
        found = {n: groups for n in wanted if n in _GROUPS}
        found |= {n: (*shared, *groups) for n in wanted if n in _HEADS}
        found |= {n: shared for n in wanted if n in _SHARED}
        fits = {n: dim for n, dim in found.items() if size_of(dim) == vars(module)[n]}
        if fits:
            return fits
    return _of_shared_keys(module, record) if wanted & _GROUPS else {}


def _of_shared_keys(module: nn.Module, record: Record) -> dict[str, Extent]:
    """Return what the number of groups follows where the keys are another layer's, of one head."""
    queries = [child for name, child in module.named_children() if name.startswith("q")]
    keys = [name for name, _ in module.named_children() if re.match(r"k(ey|v|_proj)", name)]
    for child in () if keys else queries:
        weight = child._parameters.get("weight")
        if weight is not None and weight.dim() == 2 and record.knows(weight):
            heads = flatten(record.dims(weight)[0])[:1]
            fits = [name for name in _GROUPS if vars(module).get(name) == size_of(heads)]
            if fits and heads[0].reason is None:
                return dict.fromkeys(fits, heads)
    return {}


def _rows(module: nn.Module, record: Record) -> Iterator[tuple[Node, ...]]:
    for child in module.children():
        weight = child._parameters.get("weight")
        if weight is not None and weight.dim() == 2 and record.knows(weight):
            rows = flatten(record.dims(weight)[0])
            yield rows
            for part in rows[-1].parts or () if rows else ():  # a query and its gate, as a sum
                yield (*rows[:-1], *flatten(part))
            for index, node in enumerate(rows[1:-1], 1):  # or as a fixed two of them in each head
                if node.reason is not None:
                    yield (*rows[:index], *rows[index + 1 :])


def _joined(dim: Extent) -> Extent:
    """Return rows with frozen neighbors as one, however they were viewed."""
    joined: list[Node] = []
    for node in dim:
        if joined and joined[-1].reason is not None and node.reason is not None:
            joined[-1] = Node(joined[-1].size * node.size, node.reason)
        else:
            joined.append(node)
    return tuple(joined)


def _leading(queries: Extent, keys: Extent) -> Extent | None:
    """Return the heads that keys share with queries: keys are (heads, size), queries have more.

    There are none where all queries share one head of keys, whose rows are a head's size alone.
    """
    if len(queries) <= len(keys) or not keys:
        return None
    if _same(queries[-len(keys) :], keys):
        return ()
    alike = len(keys) > 1 and queries[0] is keys[0] and _same(queries[1 - len(keys) :], keys[1:])
    return keys[:1] if alike else None


def _same(left: Extent, right: Extent) -> bool:
    """Return whether two extents are the same axes; frozen ones may be told apart, and are not."""
    return all(
        a is b or (a.reason is not None and b.reason is not None and a.size == b.size)
        for a, b in zip(left, right, strict=True)
    )
