// The k strongest activations of each channel, kept while batches stream by.
#pragma once

#include <cstdint>

namespace backlight {

// What is kept of `channels` channels, [channels, k] each, strongest first: see topk.py.
struct Kept {
  float* values;
  std::int64_t* image;
  std::int64_t* position;
  int channels, k;
};

// Takes in maps [n, channels, area] of the images numbered index [n]. NaN counts as none.
// one_each: an image gives a channel its strongest activation only.
void merge(const Kept& kept, const float* maps, const std::int64_t* index, int n,
           std::int64_t area, bool one_each);

}  // namespace backlight
