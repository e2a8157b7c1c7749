"""Cut the part of DejaVu Sans that comes along: Latin, Greek, Cyrillic and a few signs.

python tools/make_font.py DejaVuSans.ttf engine/assets/dejavu-sans-part.ttf     # needs fonttools
"""

from __future__ import annotations

import subprocess
import sys

LETTERS = (
    "U+0020-007E,U+00A0-024F,U+0259,U+02BB-02BC,U+02C6-02DD,U+0300-0304,U+0306-030C,U+0323,"
    "U+0327,U+0370-03FF,U+0400-052F,U+1E00-1EFF"
)
SIGNS = (
    "U+2010-2027,U+2030-203A,U+2070-209C,U+20AC,U+20BD,U+2116,U+2122,U+2190-2193,U+2202,U+2206,"
    "U+2211,U+2212,U+221A,U+221E,U+2248,U+2260-2265,U+FFFD"
)


def main(source: str, target: str) -> None:
    command = ["pyftsubset", source, f"--output-file={target}", f"--unicodes={LETTERS},{SIGNS}"]
    command += ["--layout-features=", "--no-hinting", "--notdef-outline", "--name-IDs=*"]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
