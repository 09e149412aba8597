"""The documentation runs: its Python is executed, its commands exist, its drawings are complete."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml

DOCS = Path(__file__).parent.parent / "docs"
README = DOCS.parent / "README.md"
HOME = DOCS / "index.md"  # shows the example of the README, which is run there
PAGES = [README, *sorted(set(DOCS.rglob("*.md")) - {HOME})]
FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(DOCS.parent))


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Return (line, text) of each fenced block of a page in one language, dedented."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        indent, kind, code = match.groups()
        if kind == language:
            line = text.count("\n", 0, match.start()) + 1
            found.append((line, re.sub(rf"^{indent}", "", code, flags=re.MULTILINE)))
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run one after another, as a reader would paste them."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, code in blocks(page, "python"):
        # Blank lines before the code make a traceback point at the line of the page.
        exec(compile("\n" * line + code, str(page), "exec"), namespace)


def test_reference_lists_what_the_library_offers() -> None:
    import manynet

    page = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    listed = {path.rpartition(".")[2] for path in re.findall(r"^::: ([\w.]+)", page, re.MULTILINE)}
    missing = sorted(set(manynet.__all__) - listed - {"__version__"})
    assert not missing, f"docs/reference/api.md lacks {', '.join(missing)}"


def test_drawing_shows_every_room() -> None:
    drawn = set(
        re.findall(r'class="ink name"[^>]*>(\w+)<', (DOCS / "assets/rooms.svg").read_text())
    )
    source = DOCS.parent / "src" / "manynet"
    rooms = {path.stem for path in source.iterdir() if not path.name.startswith(("_", "py.typed"))}
    assert drawn == rooms


def test_readme_and_home_show_the_same_example() -> None:
    assert [code for _, code in blocks(README, "python")] == [
        code for _, code in blocks(HOME, "python")
    ]


def test_pages_link_to_files_that_exist() -> None:
    """mkdocs checks the pages under docs/; the ones beside it are read on their own."""
    root = DOCS.parent
    for page in (README, root / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (root / target).exists(), f"{page.name} links to {target}"


def test_config_page_shows_every_key_and_its_default() -> None:
    from manynet.config import Config

    ((_, shown),) = blocks(DOCS / "reference" / "config.md", "yaml")
    assert yaml.safe_load(shown) == Config().to_dict()


def test_command_line_page_is_that_of_the_command_line() -> None:
    """Renew it with `make cli-page`."""
    script = DOCS / "cli_page.py"
    page = runpy.run_path(str(script))["page"]()
    assert (DOCS / "reference" / "cli.md").read_text(encoding="utf-8") == page


def test_commands_on_the_pages_exist() -> None:
    from manynet.cli import app

    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    verbs |= {group.name for group in app.registered_groups}
    for page in [HOME, *PAGES]:
        used = re.findall(r"`manynet ([a-z]+)", page.read_text(encoding="utf-8"))
        for _, code in blocks(page, "bash"):
            used += re.findall(r"^manynet ([a-z]+)", code, re.MULTILINE)
        assert set(used) <= verbs, f"{name_of(page)} uses a verb that manynet lacks"


def test_pages_of_the_systems_are_what_their_results_say() -> None:
    for path, text in runpy.run_path(str(DOCS / "system_pages.py"))["files"]().items():
        assert path.read_text(encoding="utf-8") == text, "renew it with `make system-pages`"


def test_no_system_needs_more_than_150_lines_of_code_in_its_own_file() -> None:
    pages = runpy.run_path(str(DOCS / "system_pages.py"))
    counts = {
        system.name: pages["lines_of_code"](pages["sources_of"](system)[0])
        for system in pages["built"]().values()
    }
    assert {name: count for name, count in counts.items() if count > 150} == {}


def test_targets_on_the_pages_exist() -> None:
    makefile = (DOCS.parent / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in [HOME, *PAGES, DOCS.parent / "CONTRIBUTING.md"]:
        used = set(re.findall(r"`make ([a-z-]+)`", page.read_text(encoding="utf-8")))
        assert used <= targets, f"{name_of(page)} names a target that the Makefile lacks"
