"""onnxruntime-web and onnxruntime-node, installed once into `.cache/web`, at one version."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

VERSION = "1.30.0"
ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "web" / VERSION

# By package, a file that is there once it is installed.
PACKAGES = {"onnxruntime-web": "ort.node.min.mjs", "onnxruntime-node": "index.js"}


class UnavailableError(Exception):
    """What isn't to be had here, and why."""


def folder_of(package: str) -> Path:
    """Where a package lies, if it does."""
    return CACHE / package / "node_modules" / package


def is_installed(package: str) -> bool:
    return (folder_of(package) / "dist" / PACKAGES[package]).is_file()


def installed(package: str) -> Path:
    """The folder of a package, fetched where it isn't there. Raises UnavailableError."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            raise UnavailableError(f"{tool} is not installed")
    if not is_installed(package):
        (CACHE / package).mkdir(parents=True, exist_ok=True)
        # No install scripts: none of the packages needs its own to run here.
        command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save"]
        done = subprocess.run(
            [*command, "--prefix", str(CACHE / package), f"{package}@{VERSION}"],
            capture_output=True,
            text=True,
            timeout=600,
        )
        if done.returncode:
            why = done.stderr.strip()[-200:]
            raise UnavailableError(f"npm can't install {package} {VERSION}: {why}")
    return folder_of(package)
