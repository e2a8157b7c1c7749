#pragma once

#include <pybind11/pybind11.h>

// Adds what bindings/streams.cpp binds.
void register_streams(pybind11::module_& m);
