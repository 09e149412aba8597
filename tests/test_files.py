"""Files that are whole or absent."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from manynet._files import sweep, write_text


def test_what_a_killed_process_had_written_aside_is_swept_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "front.json", "[]")
    kept = [tmp_path / ".lock", tmp_path / ".hidden.txt", tmp_path / "members" / "small" / "a.onnx"]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    script = (
        "import os, sys; from pathlib import Path; from manynet._files import replace_with\n"
        "replace_with(Path(sys.argv[1]), lambda file: os.kill(os.getpid(), 9))"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "front.json")], check=False)
    aside = Path(tempfile.mkdtemp(prefix=".small.", dir=tmp_path / "members"))
    aside.with_name(aside.name + ".old").mkdir()
    assert len([path for path in tmp_path.rglob(".*") if path not in kept]) == 3
    sweep(tmp_path)
    left = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {tmp_path / "front.json", *kept}
    assert list((tmp_path / "members").iterdir()) == [tmp_path / "members" / "small"]
