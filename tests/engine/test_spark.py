"""The docs' recipe for Spark runs as it stands.

pip install pyspark pandas && pytest -m slow tests/engine/test_spark.py      # and Java 17
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import backlight
from backlight.engine.cli.options import BUNDLED

from .batching import manifest_of, rows_of, tars
from .commands import SRC

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_docs_recipe(tmp_path: Path) -> None:
    """Four tasks give what one machine gives; run again, what is missing is done."""
    pytest.importorskip("pyspark", reason="PySpark is no extra of this project")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    keys = tars(tmp_path / "shards", 5, 4)
    text = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "pyspark" in c)
    (tmp_path / "recipe.py").write_text(code, encoding="utf-8")

    own = {"PYTHONPATH": SRC, "PYSPARK_PYTHON": sys.executable}

    def run() -> None:
        done = subprocess.run(
            [sys.executable, "recipe.py"], cwd=tmp_path, capture_output=True, text=True,
            check=False, timeout=900, env={**os.environ, **own},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert "000000.jpg" in done.stdout

    run()
    folders = sorted((tmp_path / "parts").iterdir())
    assert len(folders) == 4
    found = [row for folder in folders for row in rows_of(folder)]
    assert [row["key"] for row in found] == keys
    whole = tmp_path / "whole"
    backlight.batch(BUNDLED, tmp_path / "shards", whole, methods=["guided"], workers=1)
    assert found == rows_of(whole)

    lost = next(folders[2].glob("*.parquet"))
    before = {path: path.stat().st_mtime_ns for f in folders for path in f.glob("*.parquet")}
    lost.unlink()
    run()
    after = {path: path.stat().st_mtime_ns for f in folders for path in f.glob("*.parquet")}
    assert {path for path in before if after[path] != before[path]} == {lost}
    assert all(manifest_of(f)["complete"] for f in folders)
