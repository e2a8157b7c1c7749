#include "resample.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "../cpu/clones.h"

namespace backlight {
namespace {

// Rows that the horizontal pass takes at a time, side by side: 4 bytes of each fill a vector.
constexpr int kRows = 8;
constexpr int kBlock = 4 * kRows;

std::uint8_t clipped(std::int32_t sum) {
  const std::int32_t value = sum >> kWeightBits;
  return static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

// out[i] = the weighted sum of in[t * stride + i], for i < n.
BL_CLONES void weigh(std::uint8_t* __restrict out, const std::uint8_t* __restrict in,
                     std::ptrdiff_t stride, const std::int32_t* __restrict weights, int taps,
                     int n) {
  constexpr std::int32_t half = 1 << (kWeightBits - 1);
  int i = 0;
  for (; i + kBlock <= n; i += kBlock) {
    std::int32_t sum[kBlock];
    for (int j = 0; j < kBlock; ++j) sum[j] = half;
    for (int t = 0; t < taps; ++t) {
      const std::uint8_t* from = in + t * stride + i;
      const std::int32_t w = weights[t];
      for (int j = 0; j < kBlock; ++j) sum[j] += from[j] * w;
    }
    for (int j = 0; j < kBlock; ++j) {
      const std::int32_t value = sum[j] >> kWeightBits;
      out[i + j] = static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
    }
  }
  for (; i < n; ++i) {
    std::int32_t sum = half;
    for (int t = 0; t < taps; ++t) sum += in[t * stride + i] * weights[t];
    out[i] = clipped(sum);
  }
}

struct Span {
  int begin, end;
};

// The inputs that an axis reads.
Span reads(const Axis& axis) {
  Span span{axis.first[0], 0};
  for (int i = 0; i < axis.length; ++i) {
    span.begin = std::min(span.begin, axis.first[i]);
    span.end = std::max(span.end, axis.first[i] + axis.count[i]);
  }
  return span;
}

// `rows` rows of pixels, column by column: [columns, kRows, 4]
void turn_in(std::uint8_t* to, const std::uint8_t* from, std::ptrdiff_t row, int step, int rows,
             int columns) {
  for (int r = 0; r < rows; ++r) {
    const std::uint8_t* pixel = from + r * row;
    std::uint8_t* cell = to + 4 * r;
    if (step == 4) {
      for (int x = 0; x < columns; ++x) std::memcpy(cell + x * kBlock, pixel + 4 * x, 4);
    } else {
      for (int x = 0; x < columns; ++x) std::memcpy(cell + x * kBlock, pixel + 3 * x, 3);
    }
  }
}

}  // namespace

void resample(std::uint8_t* out, const std::uint8_t* in, int width, int step, const Axis& y,
              const Axis& x) {
  const Span rows = reads(y), columns = reads(x);
  const std::ptrdiff_t line = static_cast<std::ptrdiff_t>(width) * step;
  const std::ptrdiff_t wide = 4 * static_cast<std::ptrdiff_t>(x.length);
  std::vector<std::uint8_t> turned(static_cast<std::size_t>(columns.end - columns.begin) * kBlock);
  std::vector<std::uint8_t> cells(static_cast<std::size_t>(x.length) * kBlock);
  std::vector<std::uint8_t> narrow(static_cast<std::size_t>(rows.end - rows.begin) * wide);
  for (int top = rows.begin; top < rows.end; top += kRows) {
    const int some = std::min(kRows, rows.end - top);
    turn_in(turned.data(), in + top * line + static_cast<std::ptrdiff_t>(columns.begin) * step,
            line, step, some, columns.end - columns.begin);
    for (int i = 0; i < x.length; ++i)
      weigh(cells.data() + static_cast<std::ptrdiff_t>(i) * kBlock,
            turned.data() + static_cast<std::ptrdiff_t>(x.first[i] - columns.begin) * kBlock,
            kBlock, x.weights + static_cast<std::ptrdiff_t>(i) * x.size, x.count[i], kBlock);
    for (int r = 0; r < some; ++r) {
      std::uint8_t* to = narrow.data() + (top - rows.begin + r) * wide;
      const std::uint8_t* cell = cells.data() + 4 * r;
      for (int i = 0; i < x.length; ++i)
        std::memcpy(to + 4 * i, cell + static_cast<std::ptrdiff_t>(i) * kBlock, 4);
    }
  }
  std::vector<std::uint8_t> low(wide);
  for (int j = 0; j < y.length; ++j) {
    weigh(low.data(), narrow.data() + (y.first[j] - rows.begin) * wide, wide,
          y.weights + static_cast<std::ptrdiff_t>(j) * y.size, y.count[j],
          static_cast<int>(wide));
    std::uint8_t* to = out + static_cast<std::ptrdiff_t>(j) * 3 * x.length;
    for (int i = 0; i < x.length; ++i) std::memcpy(to + 3 * i, low.data() + 4 * i, 3);
  }
}

}  // namespace backlight
