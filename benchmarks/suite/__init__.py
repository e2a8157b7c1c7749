"""pytest-benchmark over the library's claims, a module each: `pytest benchmarks/suite`.

What a claim compares shares a group, so that the table shows the ratio; the models are the bundled
one and what is made from it. The figures in benchmarks/README.md come from the modules beside this
folder, which alternate what they compare; these are for watching a change, on any machine.
"""
