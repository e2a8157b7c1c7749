// Launchers for the bodies in masks.h. One-dimensional grids; see cuda/backend.py for the calls.
#include "masks.h"

namespace bl = backlight;

#define THREAD (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x)

#define APPLY_KERNELS(SUFFIX, T)                                                                 \
  extern "C" __global__ void apply_windows_##SUFFIX(                                             \
      long long total, int head, int planes, int height, int row, int inner, T* out,             \
      const T* image, const T* base, int flat, const int* boxes) {                               \
    bl::apply_thread(THREAD, total, head, bl::Shape{planes, height, row, inner}, out, image,     \
                     bl::Base<T>{base, flat}, bl::Windows<T>{boxes});                            \
  }                                                                                              \
  extern "C" __global__ void apply_grids_##SUFFIX(                                               \
      long long total, int head, int planes, int height, int row, int inner, T* out,             \
      const T* image, const T* base, int flat, const unsigned char* grids, const int* shifts,    \
      int rows, int cols, float step_y, float step_x) {                                          \
    const bl::GridMasks masks{grids, shifts, rows, cols, step_y, step_x};                        \
    bl::apply_thread(THREAD, total, head, bl::Shape{planes, height, row, inner}, out, image,     \
                     bl::Base<T>{base, flat}, bl::Enlarged<T, bl::GridMasks>{masks});            \
  }                                                                                              \
  extern "C" __global__ void apply_maps_##SUFFIX(                                                \
      long long total, int head, int planes, int height, int row, int inner, T* out,             \
      const T* image, const T* base, int flat, const float* maps, int rows, int cols,            \
      float step_y, float step_x) {                                                              \
    const bl::MapMasks masks{maps, rows, cols, step_y, step_x};                                  \
    bl::apply_thread(THREAD, total, head, bl::Shape{planes, height, row, inner}, out, image,     \
                     bl::Base<T>{base, flat}, bl::Enlarged<T, bl::MapMasks>{masks});             \
  }                                                                                              \
  extern "C" __global__ void apply_segments_##SUFFIX(                                            \
      long long total, int head, int planes, int height, int row, int inner, T* out,             \
      const T* image, const T* base, int flat, const int* labels, const unsigned char* table,    \
      int segments) {                                                                            \
    bl::apply_thread(THREAD, total, head, bl::Shape{planes, height, row, inner}, out, image,     \
                     bl::Base<T>{base, flat},                                                    \
                     bl::Segments<T>{labels, table, segments, row / inner});                     \
  }

APPLY_KERNELS(float32, float)
APPLY_KERNELS(float16, bl::Half)
APPLY_KERNELS(uint8, unsigned char)

extern "C" __global__ void accumulate_windows(int classes, int planes, int height, int width,
                                              double* total, const double* values,
                                              const int* boxes, int n) {
  bl::accumulate_windows_thread(THREAD, classes, planes, height, width, total, values, boxes, n);
}

extern "C" __global__ void accumulate_grids(int classes, int height, int width, double* total,
                                            const double* values, const unsigned char* grids,
                                            const int* shifts, int rows, int cols, float step_y,
                                            float step_x, int n) {
  const bl::GridMasks masks{grids, shifts, rows, cols, step_y, step_x};
  bl::accumulate_enlarged_thread(THREAD, classes, height, width, total, values, masks, n);
}

extern "C" __global__ void accumulate_maps(int classes, int height, int width, double* total,
                                           const double* values, const float* maps, int rows,
                                           int cols, float step_y, float step_x, int n) {
  const bl::MapMasks masks{maps, rows, cols, step_y, step_x};
  bl::accumulate_enlarged_thread(THREAD, classes, height, width, total, values, masks, n);
}

extern "C" __global__ void accumulate_segments(int classes, int segments, double* total,
                                               const double* values, const unsigned char* table,
                                               int n) {
  bl::accumulate_segments_thread(THREAD, classes, segments, total, values, table, n);
}

extern "C" __global__ void paint(int classes, int pixels, int segments, float* heat,
                                 const double* values, const int* labels) {
  bl::paint_thread(THREAD, classes, pixels, segments, heat, values, labels);
}
