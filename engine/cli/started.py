"""How the command line of this process was started: what `isolated` passes on, and is told."""

from __future__ import annotations

# What `run` was called with.
arguments: list[str] = []
# Whether this is the process of a command's own that --isolate starts.
inside = False
