// Masked variants and their reduction on the CPU. Arrays are contiguous; see ../masks.h for what
// Shape, boxes, grids and tables are. Elements of windows and segments are moved as they are, so
// only their size matters.
#pragma once

#include "../masks.h"

namespace backlight {

// out: [n, planes, height, row]. base: one value per channel (flat) or an image.
template <class T>
struct Variants {
  const T* image;
  const T* base;
  bool flat;
  T* out;
  Shape shape;
  int n;
  int threads;
};

// Elements: std::uint32_t, std::uint16_t, std::uint8_t.
template <class T>
void apply_windows(const Variants<T>& v, const int* boxes);
template <class T>
void apply_segments(const Variants<T>& v, const int* labels, const unsigned char* table,
                    int segments);

// Elements: float, Half, unsigned char. Masks: GridMasks, MapMasks.
template <class T, class Masks>
void apply_enlarged(const Variants<T>& v, const Masks& masks);

// total: [classes, planes, height, width]; values: [classes, n].
void accumulate_windows(double* total, const double* values, int classes, int planes, int height,
                        int width, const int* boxes, int n, int threads);
template <class Masks>
void accumulate_enlarged(double* total, const double* values, int classes, int height, int width,
                         const Masks& masks, int n, int threads);

}  // namespace backlight
