"""Numbers, costs and archs as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from manynet.space import Value

__all__ = [
    "CostLabel",
    "brief",
    "bytes_text",
    "cost_amount",
    "cost_label",
    "cost_text",
    "count_text",
    "kinds",
    "quality_text",
    "round_up",
    "significant",
]

_STEPS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class CostLabel:
    """How a cost is called: on an axis, after a number, and how the axis counts."""

    title: str
    unit: str
    ticks: str = "~s"


_LABELS = {
    "macs": CostLabel("MACs", "MACs"),
    "parameters": CostLabel("Parameters", "parameters"),
    "bytes": CostLabel("Size of the weights", "B"),
    "peak_memory": CostLabel("Peak memory of activations", "B"),
    "latency_ms": CostLabel("Latency", "ms", "~g"),
    "token_ms": CostLabel("Time of one token", "ms", "~g"),
    "kv_cache_bytes": CostLabel("Key-value cache of 2048 tokens", "B"),
    "energy_mj": CostLabel("Energy", "mJ", "~g"),
}


def cost_label(name: str) -> CostLabel:
    """Return how the cost `name` is shown; a cost of the user's own goes by its name.

    Example:
        >>> cost_label("latency_ms").title, cost_label("latency_onnx_ms").title
        ('Latency', 'latency onnx')
    """
    if name in _LABELS:
        return _LABELS[name]
    for ending, unit, ticks in (("_ms", "ms", "~g"), ("_bytes", "B", "~s"), ("memory", "B", "~s")):
        if name.endswith(ending):
            title = name.removesuffix(ending) if ending.startswith("_") else name
            return CostLabel(title.replace("_", " "), unit, ticks)
    return CostLabel(name.replace("_", " "), "")


def significant(value: float, digits: int = 3) -> str:
    """Return `value` with a few significant digits and never an exponent.

    Example:
        >>> significant(0.41973), significant(12.0), significant(1234.6)
        ('0.42', '12', '1235')
    """
    if value == 0 or not math.isfinite(value):
        return str(value) if value else "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _scaled(value: float) -> str:
    """Return a number with its decimal prefix: `1.23 M`."""
    for step, prefix in _STEPS:
        if abs(value) >= step * 0.9995:
            return f"{significant(value / step)} {prefix}"
    return f"{significant(value)} "


def bytes_text(value: float) -> str:
    """Return a number of bytes in decimal units.

    Example:
        >>> bytes_text(34_400), bytes_text(7)
        ('34.4 KB', '7 B')
    """
    return f"{_scaled(value).replace('k', 'K')}B"


def cost_text(name: str, value: float) -> str:
    """Return a cost with its unit.

    Example:
        >>> cost_text("macs", 1_234_567), cost_text("bytes", 34_000), cost_text("latency_ms", 0.42)
        ('1.23 M MACs', '34 KB', '0.42 ms')
    """
    unit = cost_label(name).unit
    if unit == "B":
        return bytes_text(value)
    if unit in {"ms", "mJ"}:
        return f"{significant(value)} {unit}"
    scaled = _scaled(value)
    return (
        f"{scaled.strip()} {unit}".strip() if scaled.endswith(" ") else f"{scaled} {unit}".strip()
    )


def cost_amount(name: str, value: float) -> str:
    """Return a cost as it stands beside its title: without a unit that says the same again.

    Example:
        >>> cost_amount("macs", 1_234_567), cost_amount("bytes", 34_000)
        ('1.23 M', '34 KB')
    """
    label, text = cost_label(name), cost_text(name, value)
    same = label.unit.casefold() == label.title.casefold()
    return text.removesuffix(label.unit).strip() if same else text


def quality_text(metric: str, value: float) -> str:
    """Return a quality as shown: an accuracy in percent, anything else as a number.

    Example:
        >>> quality_text("accuracy", 0.9712), quality_text("perplexity", 12.345)
        ('97.1 %', '12.3')
    """
    if metric.endswith("accuracy") and 0 <= value <= 1:
        return f"{100 * value:.1f} %"
    return significant(value)


def count_text(count: int) -> str:
    """Return a count that people can grasp, exact while it is small.

    Example:
        >>> count_text(12_288), count_text(3 * 10**18)
        ('12,288', 'about 3.0 × 10¹⁸')
    """
    if count < 10**9:
        return f"{count:,}"
    exponent = len(str(count)) - 1
    lead = count // 10 ** (exponent - 2) / 100
    power = str(exponent).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"about {lead:.1f} \N{MULTIPLICATION SIGN} 10{power}"


def round_up(value: float, below: float = math.inf) -> float:
    """Return the roundest number that is at least `value` and less than `below`.

    Example:
        >>> round_up(1_234_567), round_up(0.41973), round_up(1_234_567, below=1_234_900)
        (1240000, 0.42, 1234600)
    """
    if value <= 0:
        return value
    lead = math.floor(math.log10(value))
    for digits in range(3, 16):
        rounded = _ceil(value, digits - 1 - lead)
        if value <= rounded < below:
            return rounded
    return value


def _ceil(value: float, places: int) -> float | int:
    """Round up to so many places after the point; negative ones count before it."""
    if places <= 0:
        unit: int = 10**-places
        return math.ceil(value / unit) * unit
    rounded = round(math.ceil(round(value * 10**places, 6)) / 10**places, places)
    return int(rounded) if rounded.is_integer() else rounded


def kinds(names: Iterable[str]) -> dict[str, list[str]]:
    """Sort choices by the last part of their names, which says what they change.

    Example:
        >>> kinds(["layer1.0.conv1.width", "layer1.depth", "layer2.depth"])
        {'width': ['layer1.0.conv1.width'], 'depth': ['layer1.depth', 'layer2.depth']}
    """
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.rpartition(".")[2], []).append(name)
    return found


def brief(arch: Mapping[str, Value], largest: Mapping[str, Value], shown: int = 6) -> list[str]:
    """Say an arch in a few words, one line a kind of choice.

    Example:
        >>> brief({"a.width": 8, "b.width": 16, "depth": 2}, {})
        ['width 8 · 16', 'depth 2']
    """
    return [f"{kind} {_values(arch, largest, names, shown)}" for kind, names in kinds(arch).items()]


def _values(
    arch: Mapping[str, Value], largest: Mapping[str, Value], names: list[str], shown: int
) -> str:
    """List the values of some choices, or sum them up when there are many."""
    values = [arch[name] for name in names]
    if len(values) <= shown:
        return " · ".join(str(value) for value in values)
    shares = [share(arch[name], largest.get(name)) for name in names]
    known = [found for found in shares if found is not None]
    if not known:
        return f"{values[0]} … {values[-1]} ({len(values)} choices)"
    return f"{100 * sum(known) / len(known):.0f} % of the largest's on average"


def share(value: Value, largest: Value | None) -> float | None:
    """Return `value` over the largest's, where both are numbers."""
    numbers = (int, float)
    if not isinstance(value, numbers) or not isinstance(largest, numbers) or not largest:
        return None
    return float(value) / float(largest)
