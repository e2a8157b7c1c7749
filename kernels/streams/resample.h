// A picture of bytes resampled as Pillow does it, to the bit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace backlight {

// One axis: output i is the sum of weights[i * size + t] * input[first[i] + t] over t < count[i], in
// fixed point with kWeightBits after the point, rounded and clipped to a byte.
struct Axis {
  const std::int32_t* first;
  const std::int32_t* count;
  const std::int32_t* weights;
  int length, size;
};

constexpr int kWeightBits = 32 - 8 - 2;

// in: rows of `width` pixels of `step` bytes (3, or 4 of which the last is passed over), as many as
// y reads. out: [y.length, x.length, 3]. Columns first, rounded to bytes, then rows.
void resample(std::uint8_t* out, const std::uint8_t* in, int width, int step, const Axis& y,
              const Axis& x);

}  // namespace backlight
