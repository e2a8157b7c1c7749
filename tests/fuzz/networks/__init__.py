"""Random classifiers in PyTorch, exported, explained by us and by independent formulas.

    python -m tests.fuzz --networks 10000 --minutes 30

The other fuzzer looks for files that break something; this one for maps that are wrong without a
word. A network is a description (`network.py`), drawn from its number alone: blocks of every kind
(`pointwise.py`, `spatial.py`, `mixing.py`, `tokens.py`), a head (`heads.py`), how it is exported
and what is asked. `oracle.py` has the same maps by PyTorch's autograd in float64, with rectifiers
of its own for deconv and guided, and the papers' formulas; `judge.py` compares. Needs torch and
onnxruntime.

To add a block: a function of a map [N, C, h, w] and a `Kit`, and a line in its table. No `detach`:
a file doesn't keep it, so that the network and its file have other gradients.
"""
