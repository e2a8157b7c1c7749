// The module `backlight.kernels._native`: marshalling only. kernels/masks.py has checked shapes and
// dtypes; what is checked again here is what would otherwise read or write out of bounds.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <utility>

#include "../kernels/cpu/masks.h"
#include "streams.h"

namespace py = pybind11;
namespace bl = backlight;

namespace {

using Step = std::pair<float, float>;
template <class T>
using Array = py::array_t<T, py::array::c_style>;

void require(bool ok, const char* what) {
  if (!ok) throw py::value_error(what);
}

// Binds without a copy: a wrong dtype or layout is a TypeError of pybind11's.
template <class T>
bl::Variants<T> variants(const py::array& image, const py::array& base, py::array& out,
                         const std::array<int, 4>& s, py::ssize_t n, int threads) {
  const bl::Shape shape{s[0], s[1], s[2], s[3]};
  require(s[0] > 0 && s[1] > 0 && s[2] > 0 && s[3] > 0, "shape");
  const py::ssize_t size = static_cast<py::ssize_t>(s[0]) * s[1] * s[2];
  const py::ssize_t channels = s[3] == 1 ? s[0] : s[3];
  const auto contiguous = py::array::c_style;
  require((image.flags() & out.flags() & base.flags() & contiguous) != 0, "not contiguous");
  require(image.size() == size && out.size() == n * size, "image or out: size");
  require(base.size() == (base.ndim() == 1 ? channels : size), "base: size");
  return {static_cast<const T*>(image.data()),
          static_cast<const T*>(base.data()),
          base.ndim() == 1,
          static_cast<T*>(out.mutable_data()),
          shape,
          static_cast<int>(n),
          threads};
}

void same_dtype(const py::array& image, const py::array& base, const py::array& out) {
  require(image.dtype().is(base.dtype()) || image.dtype().equal(base.dtype()), "base: dtype");
  require(image.dtype().equal(out.dtype()), "out: dtype");
}

// Calls f with a zero of the unsigned integer as large as an element.
template <class F>
void by_size(py::ssize_t bytes, F f) {
  if (bytes == 4) return f(std::uint32_t{});
  if (bytes == 2) return f(std::uint16_t{});
  require(bytes == 1, "dtype");
  f(std::uint8_t{});
}

template <class F>
void by_dtype(const py::dtype& dtype, F f) {
  if (dtype.kind() == 'f' && dtype.itemsize() == 4) return f(float{});
  if (dtype.kind() == 'f' && dtype.itemsize() == 2) return f(bl::Half{});
  require(dtype.kind() == 'u' && dtype.itemsize() == 1, "dtype");
  f(static_cast<unsigned char>(0));
}

void check_boxes(const Array<int>& boxes, int channels, int height, int width) {
  require(boxes.ndim() == 2 && boxes.shape(1) == 6, "boxes: shape");
  const int limit[3] = {channels, height, width};
  const int* b = boxes.data();
  for (py::ssize_t k = 0; k < boxes.shape(0); ++k, b += 6)
    for (int axis = 0; axis < 3; ++axis)
      require(b[2 * axis] >= 0 && b[2 * axis] <= b[2 * axis + 1] &&
                  b[2 * axis + 1] <= limit[axis],
              "boxes: outside the image");
}

void check_labels(const Array<int>& labels, py::ssize_t segments) {
  const int* label = labels.data();
  bool ok = true;
  for (py::ssize_t i = 0; i < labels.size(); ++i) ok &= label[i] >= 0 && label[i] < segments;
  require(ok, "labels: outside the table");
}

bl::GridMasks grid_masks(const Array<unsigned char>& grids, const Array<int>& shifts, Step step) {
  require(grids.ndim() == 3 && shifts.ndim() == 2 && shifts.shape(1) == 2 &&
              shifts.shape(0) == grids.shape(0),
          "grids: shape");
  return {grids.data(), shifts.data(), static_cast<int>(grids.shape(1)),
          static_cast<int>(grids.shape(2)), step.first, step.second};
}

bl::MapMasks map_masks(const Array<float>& maps, Step step) {
  require(maps.ndim() == 3, "maps: shape");
  return {maps.data(), static_cast<int>(maps.shape(1)), static_cast<int>(maps.shape(2)),
          step.first, step.second};
}

void apply_windows(const py::array& image, const py::array& base, py::array out,
                   const std::array<int, 4>& shape, const Array<int>& boxes, int threads) {
  same_dtype(image, base, out);
  check_boxes(boxes, shape[3] == 1 ? shape[0] : shape[3], shape[1], shape[2] / shape[3]);
  by_size(image.itemsize(), [&](auto zero) {
    const auto v =
        variants<decltype(zero)>(image, base, out, shape, boxes.shape(0), threads);
    const int* data = boxes.data();
    const py::gil_scoped_release release;
    bl::apply_windows(v, data);
  });
}

void apply_grids(const py::array& image, const py::array& base, py::array out,
                 const std::array<int, 4>& shape, const Array<unsigned char>& grids,
                 const Array<int>& shifts, Step step, int threads) {
  same_dtype(image, base, out);
  const bl::GridMasks masks = grid_masks(grids, shifts, step);
  by_dtype(image.dtype(), [&](auto zero) {
    const auto v =
        variants<decltype(zero)>(image, base, out, shape, grids.shape(0), threads);
    const py::gil_scoped_release release;
    bl::apply_enlarged(v, masks);
  });
}

void apply_maps(const py::array& image, const py::array& base, py::array out,
                const std::array<int, 4>& shape, const Array<float>& maps, Step step,
                int threads) {
  same_dtype(image, base, out);
  const bl::MapMasks masks = map_masks(maps, step);
  by_dtype(image.dtype(), [&](auto zero) {
    const auto v =
        variants<decltype(zero)>(image, base, out, shape, maps.shape(0), threads);
    const py::gil_scoped_release release;
    bl::apply_enlarged(v, masks);
  });
}

void apply_segments(const py::array& image, const py::array& base, py::array out,
                    const std::array<int, 4>& shape, const Array<int>& labels,
                    const Array<unsigned char>& table, int threads) {
  same_dtype(image, base, out);
  require(table.ndim() == 2 && labels.size() == static_cast<py::ssize_t>(shape[1]) *
                                                   (shape[2] / shape[3]),
          "labels or table: shape");
  check_labels(labels, table.shape(1));
  by_size(image.itemsize(), [&](auto zero) {
    const auto v =
        variants<decltype(zero)>(image, base, out, shape, table.shape(0), threads);
    const int segments = static_cast<int>(table.shape(1));
    const int* label = labels.data();
    const unsigned char* rows = table.data();
    const py::gil_scoped_release release;
    bl::apply_segments(v, label, rows, segments);
  });
}

void accumulate_windows(Array<double> total, const Array<double>& values, const Array<int>& boxes,
                        int threads) {
  require(total.ndim() == 4 && values.ndim() == 2 && values.shape(0) == total.shape(0) &&
              values.shape(1) == boxes.shape(0),
          "total or values: shape");
  const int classes = static_cast<int>(total.shape(0)), planes = static_cast<int>(total.shape(1));
  const int height = static_cast<int>(total.shape(2)), width = static_cast<int>(total.shape(3));
  // planes = 1: the boxes span every channel, whatever their number.
  check_boxes(boxes, planes == 1 ? INT32_MAX : planes, height, width);
  double* sums = total.mutable_data();
  const double* v = values.data();
  const int* data = boxes.data();
  const int n = static_cast<int>(boxes.shape(0));
  const py::gil_scoped_release release;
  bl::accumulate_windows(sums, v, classes, planes, height, width, data, n, threads);
}

void accumulate_grids(Array<double> total, const Array<double>& values,
                      const Array<unsigned char>& grids, const Array<int>& shifts, Step step,
                      int threads) {
  require(total.ndim() == 4 && total.shape(1) == 1 && values.ndim() == 2 &&
              values.shape(0) == total.shape(0) && values.shape(1) == grids.shape(0),
          "total or values: shape");
  const bl::GridMasks masks = grid_masks(grids, shifts, step);
  const int classes = static_cast<int>(total.shape(0)), n = static_cast<int>(grids.shape(0));
  const int height = static_cast<int>(total.shape(2)), width = static_cast<int>(total.shape(3));
  double* sums = total.mutable_data();
  const double* v = values.data();
  const py::gil_scoped_release release;
  bl::accumulate_enlarged(sums, v, classes, height, width, masks, n, threads);
}

void accumulate_maps(Array<double> total, const Array<double>& values, const Array<float>& maps,
                     Step step, int threads) {
  require(total.ndim() == 4 && total.shape(1) == 1 && values.ndim() == 2 &&
              values.shape(0) == total.shape(0) && maps.ndim() == 3 &&
              values.shape(1) == maps.shape(0),
          "total or values: shape");
  const bl::MapMasks masks = map_masks(maps, step);
  const int classes = static_cast<int>(total.shape(0)), n = static_cast<int>(maps.shape(0));
  const int height = static_cast<int>(total.shape(2)), width = static_cast<int>(total.shape(3));
  double* sums = total.mutable_data();
  const double* v = values.data();
  const py::gil_scoped_release release;
  bl::accumulate_enlarged(sums, v, classes, height, width, masks, n, threads);
}

void accumulate_segments(Array<double> total, const Array<double>& values,
                         const Array<unsigned char>& table) {
  require(total.ndim() == 2 && values.ndim() == 2 && table.ndim() == 2 &&
              values.shape(0) == total.shape(0) && values.shape(1) == table.shape(0) &&
              table.shape(1) == total.shape(1),
          "total, values or table: shape");
  const int classes = static_cast<int>(total.shape(0)), n = static_cast<int>(table.shape(0));
  const int segments = static_cast<int>(total.shape(1));
  double* sums = total.mutable_data();
  const double* v = values.data();
  const unsigned char* rows = table.data();
  const py::gil_scoped_release release;
  for (long long t = 0; t < static_cast<long long>(classes) * segments; ++t)
    bl::accumulate_segments_thread(t, classes, segments, sums, v, rows, n);
}

void paint(Array<float> heat, const Array<double>& values, const Array<int>& labels) {
  require(values.ndim() == 2 && heat.size() == values.shape(0) * labels.size(), "heat: shape");
  const int classes = static_cast<int>(values.shape(0)), pixels = static_cast<int>(labels.size());
  const int segments = static_cast<int>(values.shape(1));
  float* map = heat.mutable_data();
  const double* v = values.data();
  const int* label = labels.data();
  check_labels(labels, segments);
  const py::gil_scoped_release release;
  for (long long t = 0; t < static_cast<long long>(classes) * pixels; ++t)
    bl::paint_thread(t, classes, pixels, segments, map, v, label);
}

}  // namespace

PYBIND11_MODULE(_native, m) {
  m.doc() = "Masked variants and their reduction, pictures and feature maps, on the CPU.";
  // noconvert: an array of another dtype is refused, never copied (a copy would swallow writes).
  m.def("apply_windows", &apply_windows, py::arg("image").noconvert(), py::arg("base").noconvert(),
        py::arg("out").noconvert(), py::arg("shape"), py::arg("boxes").noconvert(),
        py::arg("threads"));
  m.def("apply_grids", &apply_grids, py::arg("image").noconvert(), py::arg("base").noconvert(),
        py::arg("out").noconvert(), py::arg("shape"), py::arg("grids").noconvert(),
        py::arg("shifts").noconvert(), py::arg("step"), py::arg("threads"));
  m.def("apply_maps", &apply_maps, py::arg("image").noconvert(), py::arg("base").noconvert(),
        py::arg("out").noconvert(), py::arg("shape"), py::arg("maps").noconvert(),
        py::arg("step"), py::arg("threads"));
  m.def("apply_segments", &apply_segments, py::arg("image").noconvert(),
        py::arg("base").noconvert(), py::arg("out").noconvert(), py::arg("shape"),
        py::arg("labels").noconvert(), py::arg("table").noconvert(), py::arg("threads"));
  m.def("accumulate_windows", &accumulate_windows, py::arg("total").noconvert(),
        py::arg("values").noconvert(), py::arg("boxes").noconvert(), py::arg("threads"));
  m.def("accumulate_grids", &accumulate_grids, py::arg("total").noconvert(),
        py::arg("values").noconvert(), py::arg("grids").noconvert(),
        py::arg("shifts").noconvert(), py::arg("step"), py::arg("threads"));
  m.def("accumulate_maps", &accumulate_maps, py::arg("total").noconvert(),
        py::arg("values").noconvert(), py::arg("maps").noconvert(), py::arg("step"),
        py::arg("threads"));
  m.def("accumulate_segments", &accumulate_segments, py::arg("total").noconvert(),
        py::arg("values").noconvert(), py::arg("table").noconvert());
  m.def("paint", &paint, py::arg("heat").noconvert(), py::arg("values").noconvert(),
        py::arg("labels").noconvert());
  register_streams(m);
}
