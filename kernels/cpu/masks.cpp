#include "masks.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "rows.h"

namespace backlight {
namespace {

// Below this a second thread costs more than it saves; above the other an output does not stay in
// the cache, and is written past it.
constexpr long long kParallelBytes = 1 << 20;
constexpr long long kStreamBytes = 16 << 20;

template <class T>
class Writer {
 public:
  explicit Writer(const Variants<T>& v)
      : v_(v),
        plane_(static_cast<long long>(v.shape.height) * v.shape.row),
        bytes_(plane_ * v.shape.planes * v.n * static_cast<long long>(sizeof(T))) {
    if (!v.flat) return;
    // A flat baseline becomes one row per plane, so that every kind is copied the same way.
    const Shape& s = v.shape;
    rows_.resize(static_cast<std::size_t>(s.planes) * s.row);
    for (int p = 0; p < s.planes; ++p)
      for (int i = 0; i < s.row; ++i)
        rows_[static_cast<std::size_t>(p) * s.row + i] = v.base[s.inner == 1 ? p : i % s.inner];
  }

  bool stream() const { return bytes_ >= kStreamBytes; }
  int threads() const { return bytes_ < kParallelBytes ? 1 : v_.threads; }
  const T* image(int plane, int y) const { return v_.image + plane * plane_ + at(y); }
  const T* base(int plane, int y) const {
    return v_.flat ? rows_.data() + static_cast<std::size_t>(plane) * v_.shape.row
                   : v_.base + plane * plane_ + at(y);
  }
  T* out(long long k, int plane, int y) const {
    return v_.out + (k * v_.shape.planes + plane) * plane_ + at(y);
  }

 private:
  long long at(int y) const { return static_cast<long long>(y) * v_.shape.row; }

  const Variants<T>& v_;
  long long plane_, bytes_;
  std::vector<T> rows_;
};

template <class T>
void copy(T* dst, const T* src, long long n, bool stream) {
  copy_row(dst, src, static_cast<std::size_t>(n) * sizeof(T), stream);
}

// Splits few variants into bands of rows, so that every thread has something to do.
int bands(int n, int threads, int height) {
  return n >= 2 * threads ? 1 : std::min(height, threads);
}

// What each of a grid's rows keeps across the image's width: float [rows, width * inner]. The
// upsampling is separable, so a mask's row is then one lerp between two of these.
void widen(float* wide, const GridMasks& m, long long k, int width, int inner) {
  const unsigned char* grid = m.grids + k * m.rows * m.cols;
  for (int x = 0; x < width; ++x) {
    const Tap t = tap(x + m.shifts[2 * k + 1], m.cols, m.step_x);
    for (int r = 0; r < m.rows; ++r) {
      const unsigned char* g = grid + r * m.cols;
      const float keep = lerp(to_float(g[t.low]), to_float(g[t.high]), t.weight);
      for (int c = 0; c < inner; ++c)
        wide[(static_cast<long long>(r) * width + x) * inner + c] = keep;
    }
  }
}

void keep_row(float* keep, const float* wide, const GridMasks& m, long long k, int y, int row) {
  const Tap t = tap(y + m.shifts[2 * k], m.rows, m.step_y);
  lerp_row(keep, wide + static_cast<long long>(t.low) * row,
           wide + static_cast<long long>(t.high) * row, t.weight, row);
}

}  // namespace

template <class T>
void apply_windows(const Variants<T>& v, const int* boxes) {
  const Writer<T> writer(v);
  const Shape s = v.shape;
  const bool stream = writer.stream();
  const int channels = s.inner == 1 ? s.planes : s.inner;
  parallel(static_cast<long long>(v.n) * s.planes, writer.threads(), [&](auto next) {
    for (long long item; (item = next()) >= 0;) {
      const long long k = item / s.planes;
      const int plane = static_cast<int>(item % s.planes);
      const int* b = boxes + 6 * k;
      const bool hit = s.inner > 1 || (plane >= b[0] && plane < b[1]);
      const int y0 = hit ? b[2] : s.height, y1 = hit ? b[3] : s.height;
      const int x0 = b[4] * s.inner, x1 = b[5] * s.inner;
      copy(writer.out(k, plane, 0), writer.image(plane, 0),
           static_cast<long long>(y0) * s.row, stream);
      for (int y = y0; y < y1; ++y) {
        T* out = writer.out(k, plane, y);
        const T* x = writer.image(plane, y);
        const T* base = writer.base(plane, y);
        copy(out, x, x0, false);
        if (s.inner == 1 || (b[0] == 0 && b[1] == channels)) {
          copy(out + x0, base + x0, x1 - x0, false);
        } else {
          for (int i = x0; i < x1; ++i) {
            const int c = i % s.inner;
            out[i] = c >= b[0] && c < b[1] ? base[i] : x[i];
          }
        }
        copy(out + x1, x + x1, s.row - x1, false);
      }
      if (y1 < s.height)
        copy(writer.out(k, plane, y1), writer.image(plane, y1),
             static_cast<long long>(s.height - y1) * s.row, stream);
    }
    if (stream) stream_fence();
  });
}

template <class T>
void apply_segments(const Variants<T>& v, const int* labels, const unsigned char* table,
                    int segments) {
  const Writer<T> writer(v);
  const Shape s = v.shape;
  const bool stream = writer.stream();
  const int width = s.row / s.inner, parts = bands(v.n, writer.threads(), s.height);
  parallel(static_cast<long long>(v.n) * parts, writer.threads(), [&](auto next) {
    std::vector<T> mask(s.row), row(s.row), keep(segments);
    for (long long item; (item = next()) >= 0;) {
      const long long k = item / parts, part = item % parts;
      for (int i = 0; i < segments; ++i)
        keep[i] = table[k * segments + i] ? static_cast<T>(~T{0}) : T{0};
      for (long long y = s.height * part / parts; y < s.height * (part + 1) / parts; ++y) {
        const int* label = labels + y * width;
        if (s.inner == 1) {
          for (int x = 0; x < width; ++x) mask[x] = keep[label[x]];
        } else {
          for (int x = 0, i = 0; x < width; ++x)
            for (int c = 0; c < s.inner; ++c) mask[i++] = keep[label[x]];
        }
        for (int plane = 0; plane < s.planes; ++plane) {
          const int line = static_cast<int>(y);
          T* out = stream ? row.data() : writer.out(k, plane, line);
          select_row(out, writer.image(plane, line), writer.base(plane, line), mask.data(), s.row);
          if (stream) copy(writer.out(k, plane, line), out, s.row, true);
        }
      }
    }
    if (stream) stream_fence();
  });
}

template <class T>
void apply_grids(const Variants<T>& v, const GridMasks& m) {
  const Writer<T> writer(v);
  const Shape s = v.shape;
  const bool stream = writer.stream();
  const int parts = bands(v.n, writer.threads(), s.height);
  parallel(static_cast<long long>(v.n) * parts, writer.threads(), [&](auto next) {
    std::vector<float> wide(static_cast<std::size_t>(m.rows) * s.row), keep(s.row);
    std::vector<T> row(s.row);
    for (long long item; (item = next()) >= 0;) {
      const long long k = item / parts, part = item % parts;
      widen(wide.data(), m, k, s.row / s.inner, s.inner);
      for (long long y = s.height * part / parts; y < s.height * (part + 1) / parts; ++y) {
        const int line = static_cast<int>(y);
        keep_row(keep.data(), wide.data(), m, k, line, s.row);
        for (int plane = 0; plane < s.planes; ++plane) {
          T* out = stream ? row.data() : writer.out(k, plane, line);
          blend_row(out, writer.image(plane, line), writer.base(plane, line), keep.data(), s.row);
          if (stream) copy(writer.out(k, plane, line), out, s.row, true);
        }
      }
    }
    if (stream) stream_fence();
  });
}

template void apply_windows(const Variants<std::uint32_t>&, const int*);
template void apply_windows(const Variants<std::uint16_t>&, const int*);
template void apply_windows(const Variants<std::uint8_t>&, const int*);
template void apply_segments(const Variants<std::uint32_t>&, const int*, const unsigned char*, int);
template void apply_segments(const Variants<std::uint16_t>&, const int*, const unsigned char*, int);
template void apply_segments(const Variants<std::uint8_t>&, const int*, const unsigned char*, int);
template void apply_grids(const Variants<float>&, const GridMasks&);
template void apply_grids(const Variants<Half>&, const GridMasks&);
template void apply_grids(const Variants<unsigned char>&, const GridMasks&);

void accumulate_windows(double* total, const double* values, int classes, int planes, int height,
                        int width, const int* boxes, int n, int threads) {
  // A thread owns whole planes or bands of one: no two write the same sum, and each sum is taken
  // in the order of the plan.
  const int parts = std::min(height, 4 * threads);
  const long long items = static_cast<long long>(classes) * planes * parts;
  if (static_cast<long long>(classes) * n < 512) threads = 1;
  parallel(items, threads, [&](auto next) {
    for (long long item; (item = next()) >= 0;) {
      const long long part = item % parts, plane = item / parts;
      const int c = static_cast<int>(plane % planes);
      const double* v = values + plane / planes * n;
      const int top = static_cast<int>(height * part / parts);
      const int bottom = static_cast<int>(height * (part + 1) / parts);
      for (int k = 0; k < n; ++k) {
        const int* b = boxes + 6 * static_cast<long long>(k);
        if (c < b[0] || c >= b[1]) continue;
        for (int y = std::max(top, b[2]); y < std::min(bottom, b[3]); ++y)
          add_row(total + (plane * height + y) * width + b[4], v[k], b[5] - b[4]);
      }
    }
  });
}

void accumulate_grids(double* total, const double* values, int classes, int height, int width,
                      const GridMasks& m, int n, int threads) {
  const int parts = std::min(height, 2 * threads);
  parallel(parts, threads, [&](auto next) {
    std::vector<float> wide(static_cast<std::size_t>(m.rows) * width), keep(width);
    for (long long part; (part = next()) >= 0;) {
      for (long long k = 0; k < n; ++k) {
        widen(wide.data(), m, k, width, 1);
        for (long long y = height * part / parts; y < height * (part + 1) / parts; ++y) {
          keep_row(keep.data(), wide.data(), m, k, static_cast<int>(y), width);
          for (long long c = 0; c < classes; ++c)
            add_row(total + (c * height + y) * width, values[c * n + k], keep.data(), width);
        }
      }
    }
  });
}

}  // namespace backlight
