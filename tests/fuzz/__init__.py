"""Models from strangers: small ones of every kind, changed at random, for what the public uses.

    python -m tests.fuzz --models 100000 --minutes 30

Each model is drawn from its number alone, so that a failure repeats. Nothing here needs a runtime.
"""
