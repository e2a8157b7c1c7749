"""What pictures and feature maps need while they stream by, and is no masked variant.

resample.py makes pictures of another size, as Pillow does; topk.py keeps the strongest activations.
Each has its C++ beside it, in the module `_native` (bindings/streams.cpp), and works without.
"""
