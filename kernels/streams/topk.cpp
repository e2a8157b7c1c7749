#include "topk.h"

#include <limits>

#include "../cpu/clones.h"

namespace backlight {
namespace {

constexpr int kLanes = 32;

// The largest of n numbers, -inf where all are NaN.
BL_CLONES float largest(const float* __restrict values, std::int64_t n) {
  float most[kLanes];
  for (int j = 0; j < kLanes; ++j) most[j] = -std::numeric_limits<float>::infinity();
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) most[j] = values[i + j] > most[j] ? values[i + j] : most[j];
  float top = most[0];
  for (int j = 1; j < kLanes; ++j) top = most[j] > top ? most[j] : top;
  for (; i < n; ++i) top = values[i] > top ? values[i] : top;
  return top;
}

// Puts an activation in its place, behind those that equal it; the last one drops out.
void insert(float* values, std::int64_t* images, std::int64_t* positions, int k, float value,
            std::int64_t image, std::int64_t position) {
  int at = k - 1;
  for (; at > 0 && values[at - 1] < value; --at) {
    values[at] = values[at - 1];
    images[at] = images[at - 1];
    positions[at] = positions[at - 1];
  }
  values[at] = value;
  images[at] = image;
  positions[at] = position;
}

}  // namespace

void merge(const Kept& kept, const float* maps, const std::int64_t* index, int n,
           std::int64_t area, bool one_each) {
  const int k = kept.k;
  for (int row = 0; row < n; ++row) {
    for (int channel = 0; channel < kept.channels; ++channel) {
      const float* map = maps + (static_cast<std::int64_t>(row) * kept.channels + channel) * area;
      const std::int64_t at = static_cast<std::int64_t>(channel) * k;
      float* values = kept.values + at;
      // After the first batches few images beat the k-th best: only those are looked at again.
      const float top = largest(map, area);
      if (!(top > values[k - 1])) continue;
      for (std::int64_t i = 0; i < area; ++i) {
        if (one_each ? map[i] != top : !(map[i] > values[k - 1])) continue;
        insert(values, kept.image + at, kept.position + at, k, map[i], index[row], i);
        if (one_each) break;
      }
    }
  }
}

}  // namespace backlight
