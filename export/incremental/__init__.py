"""Exact incremental inference: what a window changes, computed alone.

plan.py says what to run; prepare.py readies the model; local.py knows which operators can be
done on boxes; trace.py follows the boxes; cost.py chooses where to leave them, buckets.py which
windows go together; build.py and clean.py write the graphs; intervals.py and feeds.py are the
arithmetic of places.
"""

from .cost import Machine, dense_seconds
from .plan import Batch, IncrementalPlan, Outline, outline, plan

__all__ = ["Batch", "IncrementalPlan", "Machine", "Outline", "dense_seconds", "outline", "plan"]
