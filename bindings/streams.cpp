// What pictures and feature maps that stream by need; see bindings/module.cpp.
#include "streams.h"

#include <pybind11/numpy.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "../kernels/streams/numbers.h"
#include "../kernels/streams/resample.h"
#include "../kernels/streams/topk.h"

namespace py = pybind11;
namespace bl = backlight;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

void require(bool ok, const char* what) {
  if (!ok) throw py::value_error(what);
}

// The Arrow C data interface (arrow.apache.org/docs/format/CDataInterface.html).
struct ArrowArray {
  std::int64_t length, null_count, offset, n_buffers, n_children;
  const void** buffers;
  ArrowArray** children;
  ArrowArray* dictionary;
  void (*release)(ArrowArray*);
  void* private_data;
};

bl::Axis axis_of(const Array<std::int32_t>& spans, const Array<std::int32_t>& weights, int inputs) {
  require(spans.ndim() == 2 && spans.shape(0) == 2 && spans.shape(1) > 0, "spans: shape");
  require(weights.ndim() == 2 && weights.shape(0) == spans.shape(1), "weights: shape");
  const int length = static_cast<int>(spans.shape(1)), size = static_cast<int>(weights.shape(1));
  const bl::Axis axis{spans.data(), spans.data() + length, weights.data(), length, size};
  for (int i = 0; i < length; ++i)
    require(axis.first[i] >= 0 && axis.count[i] >= 0 && axis.count[i] <= size &&
                axis.count[i] <= inputs - axis.first[i],
            "spans: outside the picture");
  return axis;
}

void resampled(Array<std::uint8_t> out, const std::uint8_t* in, int height, int width, int step,
               const Array<std::int32_t>& y_spans, const Array<std::int32_t>& y_weights,
               const Array<std::int32_t>& x_spans, const Array<std::int32_t>& x_weights) {
  const bl::Axis y = axis_of(y_spans, y_weights, height), x = axis_of(x_spans, x_weights, width);
  require(out.ndim() == 3 && out.shape(0) == y.length && out.shape(1) == x.length &&
              out.shape(2) == 3,
          "out: shape");
  std::uint8_t* to = out.mutable_data();
  const py::gil_scoped_release release;
  bl::resample(to, in, width, step, y, x);
}

void resample(Array<std::uint8_t> out, const Array<std::uint8_t>& in,
              const Array<std::int32_t>& y_spans, const Array<std::int32_t>& y_weights,
              const Array<std::int32_t>& x_spans, const Array<std::int32_t>& x_weights) {
  require(in.ndim() == 3 && in.shape(2) == 3, "in: shape");
  resampled(out, in.data(), static_cast<int>(in.shape(0)), static_cast<int>(in.shape(1)), 3,
            y_spans, y_weights, x_spans, x_weights);
}

// pixels: the array capsule of a fixed-size list of 4 bytes, height x width of them.
void resample_arrow(Array<std::uint8_t> out, const py::capsule& pixels, int height, int width,
                    const Array<std::int32_t>& y_spans, const Array<std::int32_t>& y_weights,
                    const Array<std::int32_t>& x_spans, const Array<std::int32_t>& x_weights) {
  require(pixels.name() != nullptr && std::string(pixels.name()) == "arrow_array", "no Arrow");
  const auto* list = pixels.get_pointer<ArrowArray>();
  require(list->release != nullptr && list->n_children == 1 && height > 0 && width > 0 &&
              list->offset == 0 && list->null_count == 0 &&
              list->length == static_cast<std::int64_t>(height) * width,
          "Arrow: no pixels of this size");
  const ArrowArray* bytes = list->children[0];
  require(bytes->n_buffers == 2 && bytes->offset == 0 && bytes->length == 4 * list->length &&
              bytes->buffers[1] != nullptr,
          "Arrow: no pixels of 4 bytes");
  resampled(out, static_cast<const std::uint8_t*>(bytes->buffers[1]), height, width, 4, y_spans,
            y_weights, x_spans, x_weights);
}

void merge_topk(Array<float> values, Array<std::int64_t> image, Array<std::int64_t> position,
                const Array<float>& maps, const Array<std::int64_t>& index, bool one_each) {
  require(values.ndim() == 2 && values.shape(1) > 0 && image.ndim() == 2 && position.ndim() == 2,
          "kept: shape");
  for (int axis = 0; axis < 2; ++axis)
    require(image.shape(axis) == values.shape(axis) && position.shape(axis) == values.shape(axis),
            "kept: shape");
  require(maps.ndim() == 3 && maps.shape(1) == values.shape(0) && index.ndim() == 1 &&
              index.shape(0) == maps.shape(0),
          "maps: shape");
  const bl::Kept kept{values.mutable_data(), image.mutable_data(), position.mutable_data(),
                      static_cast<int>(values.shape(0)), static_cast<int>(values.shape(1))};
  const float* given = maps.data();
  const std::int64_t* numbers = index.data();
  const int n = static_cast<int>(maps.shape(0));
  const std::int64_t area = maps.shape(2);
  const py::gil_scoped_release release;
  bl::merge(kept, given, numbers, n, area, one_each);
}

// An array that keeps its numbers where they are.
py::array owned(std::vector<double> values) {
  auto held = std::make_unique<std::vector<double>>(std::move(values));
  const double* const data = held->data();
  const auto size = static_cast<py::ssize_t>(held->size());
  const py::capsule owner(held.get(), [](void* p) { delete static_cast<std::vector<double>*>(p); });
  static_cast<void>(held.release());
  return py::array_t<double>(size, data, owner);
}

py::tuple lift_numbers(const py::buffer& text, std::size_t least) {
  const py::buffer_info info = text.request();
  require(info.itemsize == 1 && info.ndim == 1 && (info.size == 0 || info.strides[0] == 1),
          "text: no bytes");
  bl::Lifted made;
  {
    const py::gil_scoped_release release;
    made = bl::lift(static_cast<const char*>(info.ptr), static_cast<std::size_t>(info.size), least);
  }
  py::list arrays;
  for (bl::Numbers& one : made.arrays) {
    py::tuple shape(one.shape.size());
    for (std::size_t i = 0; i < one.shape.size(); ++i) shape[i] = py::int_(one.shape[i]);
    arrays.append(py::make_tuple(owned(std::move(one.values)), shape, one.whole));
  }
  return py::make_tuple(py::bytes(made.rest), arrays, made.values);
}

}  // namespace

void register_streams(py::module_& m) {
  m.def("resample", &resample, py::arg("out").noconvert(), py::arg("pixels").noconvert(),
        py::arg("y_spans").noconvert(), py::arg("y_weights").noconvert(),
        py::arg("x_spans").noconvert(), py::arg("x_weights").noconvert());
  m.def("resample_arrow", &resample_arrow, py::arg("out").noconvert(), py::arg("pixels"),
        py::arg("height"), py::arg("width"), py::arg("y_spans").noconvert(),
        py::arg("y_weights").noconvert(), py::arg("x_spans").noconvert(),
        py::arg("x_weights").noconvert());
  m.def("merge_topk", &merge_topk, py::arg("values").noconvert(), py::arg("image").noconvert(),
        py::arg("position").noconvert(), py::arg("maps").noconvert(),
        py::arg("index").noconvert(), py::arg("one_each"));
  m.def("lift_numbers", &lift_numbers, py::arg("text"), py::arg("least"));
}
