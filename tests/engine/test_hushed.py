"""What readers of pictures warn of: nothing that anybody sees."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from backlight.engine.photos import images
from backlight.errors import ImageError


def test_what_readers_warn_of_is_ours_to_say(tmp_path: Path) -> None:
    """Pillow warns of the directory of a broken TIFF, on stderr and past the one line; in threads
    that read side by side, too."""
    path = tmp_path / "cut.tif"
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(path, compression="tiff_lzw")
    path.write_bytes(path.read_bytes()[:-60])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        about = pytest.warns(UserWarning, match="Corrupt|Truncated|larger")
        with about, pytest.raises(UnidentifiedImageError):  # it does
            Image.open(path)
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(images.decode, path) for _ in range(40)]:
                with pytest.raises(ImageError):
                    done.result()
        assert not told and warnings.filters == before
