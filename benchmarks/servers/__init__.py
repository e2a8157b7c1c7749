"""Other servers of the same models, for `benchmarks.serve`: each a script that runs in an
environment of its own, with onnxruntime and numpy in it and nothing of Backlight.

    PYTHON benchmarks/servers/NAME.py PLAIN.onnx EXPLAINING.onnx PORT
"""
