"""Writing the page and the drawings of a run."""

from __future__ import annotations

from pathlib import Path

from manynet._files import write_text

__all__ = ["write_report"]


def write_report(folder: Path | str) -> Path:
    """Write `report.html`, and drawings in `figures/`, into a run's folder.

    The page is one file: it opens without a network, on a phone and in dark mode. It shows what
    the folder holds; where a file is missing or damaged, that part says so in one line.

    Args:
        folder: the run's folder. `front.json` must be there; `training.jsonl`, `layers.json`,
            `latency.json`, `ranking.json`, `evaluations.sqlite`, `family.json`, `config.yaml`,
            `environment.json` and `members/*/manifest.json` are used where they are.

    Returns:
        The path of the page.

    Raises:
        StorageError: the front is missing or damaged, or the folder cannot be written.
        MissingExtraError: plotly is not installed.

    Example:
        >>> import json, tempfile
        >>> front = [{"arch": {"width": 8}, "quality": 0.9, "metric": "accuracy", "macs": 1200}]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "front.json").write_text(json.dumps(front))
        ...     page = write_report(folder)
        ...     print(page.name, "1.2 k MACs" in page.read_text(encoding="utf-8"))
        report.html True
    """
    from manynet.report._page import render
    from manynet.report._pictures import pictures
    from manynet.report._read import read_run

    run = read_run(Path(folder))
    page = Path(folder, "report.html")
    write_text(page, render(run))
    for name, drawing in pictures(run).items():
        write_text(Path(folder, "figures", name), drawing)
    return page
