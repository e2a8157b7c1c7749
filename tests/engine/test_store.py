"""Stores: folders whose pictures may be opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from backlight.engine.similar.store import Embeddings
from backlight.errors import UsageError


def test_a_folder_that_is_not_there_is_no_folder_of_pictures(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: no such folder; expected one"):
        Embeddings(tmp_path, [tmp_path / "nowhere"])
