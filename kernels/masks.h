// The arithmetic of masked variants, once: NVRTC compiles this header for cuda/masks.cu, a C++
// compiler compiles it for cpu/masks.cpp. Plain C++17, no standard library (NVRTC has none), no
// barriers and no warp operations, so that a loop over the thread index gives the same answer.
//
// Both builds switch off the contraction of a * b + c to one rounding, so every backend agrees
// with kernels/reference.py bit for bit.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define BL_FN __device__ __forceinline__
#define BL_CUDA 1
#else
#define BL_FN inline
#define BL_CUDA 0
#endif

namespace backlight {

// IEEE binary16, moved as its bits: neither compiler then needs a header for it.
struct Half {
  unsigned short bits;
};

// An image in memory: planes x height x row elements. NCHW: planes = C, row = W, inner = 1.
// NHWC: planes = 1, row = W * C, inner = C.
struct Shape {
  int planes, height, row, inner;
};

// A box of a sliding window, half open: (c0, c1, y0, y1, x0, x1), int32 in the plan.
BL_FN bool inside(const int* box, int c, int y, int x) {
  return c >= box[0] && c < box[1] && y >= box[2] && y < box[3] && x >= box[4] && x < box[5];
}

union Bits {
  float f;
  unsigned u;
};

BL_FN float to_float(float v) { return v; }
BL_FN float to_float(unsigned char v) { return static_cast<float>(v); }

#if BL_CUDA
BL_FN float to_float(Half v) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
  return f;
}
BL_FN Half to_half(float v) {
  Half h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h.bits) : "f"(v));
  return h;
}
#else
// Without branches, for a compiler to vectorise: every case is computed, then one is selected.
BL_FN float to_float(Half v) {
  const unsigned sign = (v.bits & 0x8000u) << 16, magnitude = v.bits & 0x7fffu;
  Bits normal, small;
  normal.u = (magnitude << 13) + (magnitude >= 0x7c00u ? 0x70000000u : 0x38000000u);
  small.f = static_cast<float>(static_cast<int>(magnitude)) * 5.9604644775390625e-8f;  // 2^-24
  Bits r;
  r.u = sign | (magnitude < 0x400u ? small.u : normal.u);
  return r.f;
}
BL_FN Half to_half(float v) {
  Bits b;
  b.f = v;
  const unsigned sign = (b.u >> 16) & 0x8000u, magnitude = b.u & 0x7fffffffu;
  // Normal: rebias the exponent, round to nearest even by adding half a step less the last bit.
  const unsigned normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Subnormal: adding 0.5 leaves the rounded result in the low bits of the sum's mantissa.
  Bits small;
  small.u = magnitude;
  small.f += 0.5f;
  const unsigned subnormal = small.u - 0x3f000000u;
  const unsigned special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const unsigned finite = magnitude < 0x38800000u ? subnormal : normal;
  Half h;
  h.bits = static_cast<unsigned short>(sign | (magnitude >= 0x477ff000u ? special : finite));
  return h;
}
#endif

// Exactly x at keep = 1 and exactly base at keep = 0.
BL_FN float blend(float x, float base, float keep) { return x * keep + base * (1.0f - keep); }

// For bytes in whole numbers: how much is kept, in parts of 2^15 and at most one part short of
// all; x - base times that, rounded half up. Exactly x at keep = 1, exactly base at 0, and within
// 1/2 + 1/85 of the exact blend: 255 * (1/2 + 1) / 2^15 comes on top of the rounding.
BL_FN int fixed_keep(float keep) { return static_cast<int>(keep * 32767.0f + 0.5f); }
BL_FN unsigned char blend_byte(int difference, int base, int keep) {
  return static_cast<unsigned char>(base + ((difference * keep + 0x4000) >> 15));
}

BL_FN float blend_element(float x, float base, float keep) { return blend(x, base, keep); }
BL_FN Half blend_element(Half x, Half base, float keep) {
  return to_half(blend(to_float(x), to_float(base), keep));
}
BL_FN unsigned char blend_element(unsigned char x, unsigned char base, float keep) {
  return blend_byte(x - base, base, fixed_keep(keep));
}

BL_FN float lerp(float a, float b, float w) { return a + w * (b - a); }

// Bilinear upsampling, half-pixel centres, edges clamped: between which two of an axis's `cells`
// grid points upsampled pixel `pos` falls. step: grid points per pixel.
struct Tap {
  int low, high;
  float weight;
};
BL_FN Tap tap(int pos, int cells, float step) {
  float source = (static_cast<float>(pos) + 0.5f) * step - 0.5f;
  const float last = static_cast<float>(cells - 1);
  source = source < 0.0f ? 0.0f : source > last ? last : source;
  Tap t;
  t.low = static_cast<int>(source);
  t.high = t.low + 1 < cells ? t.low + 1 : t.low;
  t.weight = source - static_cast<float>(t.low);
  return t;
}

// Masks that are enlarged: k's points [rows, cols], and the pixel that the crop starts at.
struct GridMasks {
  const unsigned char* grids;  // [n, rows, cols], 1 = kept
  const int* shifts;           // [n, 2]
  int rows, cols;
  float step_y, step_x;
  BL_FN const unsigned char* points(long long k) const { return grids + k * rows * cols; }
  BL_FN int shift_y(long long k) const { return shifts[2 * k]; }
  BL_FN int shift_x(long long k) const { return shifts[2 * k + 1]; }
};

struct MapMasks {
  const float* maps;  // [n, rows, cols]
  int rows, cols;
  float step_y, step_x;
  BL_FN const float* points(long long k) const { return maps + k * rows * cols; }
  BL_FN int shift_y(long long) const { return 0; }
  BL_FN int shift_x(long long) const { return 0; }
};

// How much of pixel (y, x) mask k keeps, 0..1.
template <class Masks>
BL_FN float keep_of(const Masks& m, long long k, int y, int x) {
  const Tap v = tap(y + m.shift_y(k), m.rows, m.step_y);
  const Tap h = tap(x + m.shift_x(k), m.cols, m.step_x);
  const auto* upper = m.points(k) + v.low * m.cols;
  const auto* lower = m.points(k) + v.high * m.cols;
  const float a = lerp(to_float(upper[h.low]), to_float(upper[h.high]), h.weight);
  const float b = lerp(to_float(lower[h.low]), to_float(lower[h.high]), h.weight);
  return lerp(a, b, v.weight);
}

// ---- One CUDA thread's share of each kernel --------------------------------------------------

// A baseline: one value per channel (flat), or an image in the image's own layout.
template <class T>
struct Base {
  const T* data;
  int flat;
  BL_FN T at(int offset, int channel) const { return data[flat ? channel : offset]; }
};

// A family says what stands at an element, and whether a run of a row is the image untouched.
template <class T>
struct Windows {
  const int* boxes;
  BL_FN bool untouched(long long k, int c, int y, int x0, int x1) const {
    const int* b = boxes + 6 * k;
    return c < b[0] || c >= b[1] || y < b[2] || y >= b[3] || x1 < b[4] || x0 >= b[5];
  }
  BL_FN T at(long long k, T x, T base, int c, int y, int px) const {
    return inside(boxes + 6 * k, c, y, px) ? base : x;
  }
};

template <class T, class Masks>
struct Enlarged {
  Masks masks;
  BL_FN bool untouched(long long, int, int, int, int) const { return false; }
  BL_FN T at(long long k, T x, T base, int, int y, int px) const {
    return blend_element(x, base, keep_of(masks, k, y, px));
  }
};

template <class T>
struct Segments {
  const int* labels;
  const unsigned char* table;
  int segments, width;
  BL_FN bool untouched(long long, int, int, int, int) const { return false; }
  BL_FN T at(long long k, T x, T base, int, int y, int px) const {
    return table[k * segments + labels[y * width + px]] ? x : base;
  }
};

struct alignas(16) Vector {
  unsigned word[4];
};

template <class T>
struct alignas(16) Lane {
  T value[16 / sizeof(T)];
};

// Elements [begin, end) of the flat output [n, planes, height, row]; at most one vector of them.
template <class T, class Family>
BL_FN void write_run(long long begin, int count, bool aligned, Shape s, T* out, const T* image,
                     Base<T> base, Family family) {
  const int size = s.planes * s.height * s.row;
  long long k = begin / size;
  int offset = static_cast<int>(begin - k * size);
  int line = offset / s.row, i = offset - line * s.row;
  int plane = line / s.height, y = line - plane * s.height;
  constexpr int V = 16 / sizeof(T);
  if (aligned && s.inner == 1 && i + V <= s.row &&
      family.untouched(k, plane, y, i, i + V - 1) &&
      reinterpret_cast<unsigned long long>(image + offset) % 16 == 0) {
    *reinterpret_cast<Vector*>(out + begin) = *reinterpret_cast<const Vector*>(image + offset);
    return;
  }
  Lane<T> lane;
  for (int j = 0; j < V; ++j) {
    if (j >= count) break;
    const int x = s.inner == 1 ? i : i / s.inner;
    const int c = s.inner == 1 ? plane : i - x * s.inner;
    lane.value[j] = family.at(k, image[offset], base.at(offset, c), c, y, x);
    ++offset;
    if (++i == s.row) {
      i = 0;
      if (++y == s.height) {
        y = 0;
        if (++plane == s.planes) plane = 0, offset = 0, ++k;
      }
    }
  }
  if (aligned) {
    *reinterpret_cast<Lane<T>*>(out + begin) = lane;
  } else {
    for (int j = 0; j < V; ++j)
      if (j < count) out[begin + j] = lane.value[j];
  }
}

// Thread 0 writes the `head` elements of `out` before its first 16-byte boundary, thread t > 0 the
// t-th vector after it. total = n * planes * height * row.
template <class T, class Family>
BL_FN void apply_thread(long long t, long long total, int head, Shape s, T* out, const T* image,
                        Base<T> base, Family family) {
  constexpr int V = 16 / sizeof(T);
  const long long begin = t == 0 ? 0 : head + (t - 1) * V;
  const long long end = t == 0 ? head : begin + V < total ? begin + V : total;
  if (begin >= end) return;
  const int count = static_cast<int>(end - begin);
  write_run(begin, count, count == V, s, out, image, base, family);
}

// total: [classes, planes, height, width]. values: [classes, n]. Thread t owns one element of
// total, and adds the values of the n boxes that cover it. planes = 1: boxes span all channels.
BL_FN void accumulate_windows_thread(long long t, int classes, int planes, int height, int width,
                                     double* total, const double* values, const int* boxes,
                                     int n) {
  const long long plane = static_cast<long long>(height) * width, size = plane * planes;
  if (t >= size * classes) return;
  const double* v = values + t / size * n;
  const int rest = static_cast<int>(t % size), c = rest / static_cast<int>(plane);
  const int y = rest % static_cast<int>(plane) / width, x = rest % width;
  double sum = 0;
  for (int k = 0; k < n; ++k)
    if (inside(boxes + 6 * k, c, y, x)) sum += v[k];
  total[t] += sum;
}

// As above, for grids and maps: what a mask keeps of a pixel times the mask's value.
template <class Masks>
BL_FN void accumulate_enlarged_thread(long long t, int classes, int height, int width,
                                      double* total, const double* values, const Masks& masks,
                                      int n) {
  const long long size = static_cast<long long>(height) * width;
  if (t >= size * classes) return;
  const double* v = values + t / size * n;
  const int rest = static_cast<int>(t % size), y = rest / width, x = rest % width;
  double sum = 0;
  for (int k = 0; k < n; ++k) sum += v[k] * keep_of(masks, k, y, x);
  total[t] += sum;
}

// total: [classes, segments]. Adds to each segment the values of the variants that hide it.
BL_FN void accumulate_segments_thread(long long t, int classes, int segments, double* total,
                                      const double* values, const unsigned char* table, int n) {
  if (t >= static_cast<long long>(classes) * segments) return;
  const double* v = values + t / segments * n;
  const int segment = static_cast<int>(t % segments);
  double sum = 0;
  for (int k = 0; k < n; ++k)
    if (!table[static_cast<long long>(k) * segments + segment]) sum += v[k];
  total[t] += sum;
}

// heat: [classes, pixels]: each pixel gets the value of its segment, [classes, segments].
BL_FN void paint_thread(long long t, int classes, int pixels, int segments, float* heat,
                        const double* values, const int* labels) {
  if (t >= static_cast<long long>(classes) * pixels) return;
  heat[t] = static_cast<float>(values[t / pixels * segments + labels[t % pixels]]);
}

}  // namespace backlight
