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

// Elements of a band: rows worked on together, for all of a block's variants, while in the cache.
constexpr int kBandElements = 2048;

// Variants of a block: one bit each of a 32-bit word.
constexpr int kBlock = 32;

template <class T>
class Writer {
 public:
  explicit Writer(const Variants<T>& v)
      : v_(v),
        plane_(static_cast<long long>(v.shape.height) * v.shape.row),
        bytes_(plane_ * v.shape.planes * v.n * static_cast<long long>(sizeof(T))),
        band_(std::max(1, std::min(v.shape.height, kBandElements / v.shape.row))) {
    if (!v.flat) return;
    // A flat baseline becomes one band per plane, so that every kind is copied the same way.
    const Shape& s = v.shape;
    const int size = band_ * s.row;
    rows_.resize(static_cast<std::size_t>(s.planes) * size);
    for (int p = 0; p < s.planes; ++p)
      for (int i = 0; i < size; ++i)
        rows_[static_cast<std::size_t>(p) * size + i] = v.base[s.inner == 1 ? p : i % s.inner];
  }

  int band() const { return band_; }

  bool stream() const { return bytes_ >= kStreamBytes; }
  int threads() const { return bytes_ < kParallelBytes ? 1 : v_.threads; }
  const T* image(int plane, int y) const { return v_.image + plane * plane_ + at(y); }
  // Good for band() rows from y.
  const T* base(int plane, int y) const {
    return v_.flat ? rows_.data() + static_cast<std::size_t>(plane) * band_ * v_.shape.row
                   : v_.base + plane * plane_ + at(y);
  }
  T* out(long long k, int plane, int y) const {
    return v_.out + (k * v_.shape.planes + plane) * plane_ + at(y);
  }

 private:
  long long at(int y) const { return static_cast<long long>(y) * v_.shape.row; }

  const Variants<T>& v_;
  long long plane_, bytes_;
  int band_;
  std::vector<T> rows_;
};

template <class T>
void copy(T* dst, const T* src, long long n, bool stream) {
  copy_row(dst, src, static_cast<std::size_t>(n) * sizeof(T), stream);
}

// How a call is handed out: blocks of variants, and parts of the rows where variants are few.
struct Split {
  Split(int variants, int threads, int rows)
      : n(variants),
        height(rows),
        block(std::max(1, std::min(kBlock, n / (2 * threads)))),
        parts(n >= 2 * threads ? 1 : std::min(rows, threads)) {}

  long long items() const { return (n + block - 1) / block * static_cast<long long>(parts); }
  int first(long long item) const { return static_cast<int>(item / parts) * block; }
  int last(long long item) const { return std::min(n, first(item) + block); }
  int top(long long item) const { return static_cast<int>(item % parts * height / parts); }
  int bottom(long long item) const { return static_cast<int>((item % parts + 1) * height / parts); }

  int n, height, block, parts;
};

// What each of a grid's or map's rows keeps across the image's width: float [rows, width * inner].
// The upsampling is separable, so a mask's row is then one lerp between two of these. weights: room
// for [width * inner].
template <class Masks>
void widen(float* wide, float* weights, const Masks& m, long long k, int width, int inner) {
  const auto* grid = m.points(k);
  const int shift = m.shift_x(k), row = width * inner;
  for (int x = 0; x < width; ++x) {
    const float weight = tap(x + shift, m.cols, m.step_x).weight;
    for (int c = 0; c < inner; ++c) weights[x * inner + c] = weight;
  }
  // Between two grid points only the weight changes: a run of pixels at once.
  for (int x0 = 0, x1; x0 < width; x0 = x1) {
    const Tap t = tap(x0 + shift, m.cols, m.step_x);
    for (x1 = x0 + 1; x1 < width && tap(x1 + shift, m.cols, m.step_x).low == t.low;) ++x1;
    for (int r = 0; r < m.rows; ++r) {
      const auto* g = grid + r * m.cols;
      lerp_run(wide + static_cast<long long>(r) * row + x0 * inner, to_float(g[t.low]),
               to_float(g[t.high]), weights + x0 * inner, (x1 - x0) * inner);
    }
  }
}

// keep: float, or 16-bit fixed_keep.
template <class Work, class Masks>
void keep_row(Work* keep, const float* wide, const Masks& m, long long k, int y, int row) {
  const Tap t = tap(y + m.shift_y(k), m.rows, m.step_y);
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
  const int band = writer.band(), size = band * s.row, width = s.row / s.inner;
  const Split split(v.n, writer.threads(), s.height);
  parallel(split.items(), writer.threads(), [&](auto next) {
    std::vector<std::uint32_t> bits(segments), words(size);
    std::vector<T> mask(size), scratch(size);
    for (long long item; (item = next()) >= 0;) {
      const int first = split.first(item), last = split.last(item);
      // Bit k - first of a segment's word: does variant k keep it? A pixel then looks its label
      // up once for the whole block.
      std::fill(bits.begin(), bits.end(), 0u);
      for (int k = first; k < last; ++k)
        for (int i = 0; i < segments; ++i)
          if (table[static_cast<long long>(k) * segments + i]) bits[i] |= 1u << (k - first);
      for (int y = split.top(item); y < split.bottom(item); y += band) {
        const int rows = std::min(band, split.bottom(item) - y), count = rows * s.row;
        const int* label = labels + static_cast<long long>(y) * width;
        for (int x = 0, i = 0; x < rows * width; ++x)
          for (int c = 0; c < s.inner; ++c) words[i++] = bits[label[x]];
        for (int k = first; k < last; ++k) {
          mask_row(mask.data(), words.data(), k - first, count);
          for (int plane = 0; plane < s.planes; ++plane) {
            T* out = stream ? scratch.data() : writer.out(k, plane, y);
            select_row(out, writer.image(plane, y), writer.base(plane, y), mask.data(), count);
            if (stream) copy(writer.out(k, plane, y), out, count, true);
          }
        }
      }
    }
    if (stream) stream_fence();
  });
}

template <class T, class Masks>
void apply_enlarged(const Variants<T>& v, const Masks& m) {
  const Writer<T> writer(v);
  const Shape s = v.shape;
  const bool stream = writer.stream();
  const int band = writer.band(), size = band * s.row;
  const Split split(v.n, writer.threads(), s.height);
  parallel(split.items(), writer.threads(), [&](auto next) {
    const std::size_t grid = static_cast<std::size_t>(m.rows) * s.row;
    std::vector<float> wide(grid * split.block), weights(s.row);
    using Work = typename Working<T>::type;
    std::vector<Work> image(static_cast<std::size_t>(size) * s.planes), base(image.size());
    std::vector<Work> keep(size);
    std::vector<T> scratch(size);
    for (long long item; (item = next()) >= 0;) {
      const int first = split.first(item), last = split.last(item);
      for (int k = first; k < last; ++k)
        widen(wide.data() + grid * (k - first), weights.data(), m, k, s.row / s.inner, s.inner);
      for (int y = split.top(item); y < split.bottom(item); y += band) {
        const int rows = std::min(band, split.bottom(item) - y), count = rows * s.row;
        for (int p = 0; p < s.planes; ++p) {
          const std::size_t offset = static_cast<std::size_t>(p) * size;
          prepare_row(image.data() + offset, base.data() + offset, writer.image(p, y),
                      writer.base(p, y), count);
        }
        for (int k = first; k < last; ++k) {
          for (int r = 0; r < rows; ++r)
            keep_row(keep.data() + r * s.row, wide.data() + grid * (k - first), m, k, y + r,
                     s.row);
          for (int p = 0; p < s.planes; ++p) {
            T* out = stream ? scratch.data() : writer.out(k, p, y);
            const std::size_t offset = static_cast<std::size_t>(p) * size;
            blend_row<T>(out, image.data() + offset, base.data() + offset, keep.data(), count);
            if (stream) copy(writer.out(k, p, y), out, count, true);
          }
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
template void apply_enlarged(const Variants<float>&, const GridMasks&);
template void apply_enlarged(const Variants<Half>&, const GridMasks&);
template void apply_enlarged(const Variants<unsigned char>&, const GridMasks&);
template void apply_enlarged(const Variants<float>&, const MapMasks&);
template void apply_enlarged(const Variants<Half>&, const MapMasks&);
template void apply_enlarged(const Variants<unsigned char>&, const MapMasks&);

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

template <class Masks>
void accumulate_enlarged(double* total, const double* values, int classes, int height, int width,
                         const Masks& m, int n, int threads) {
  const int parts = std::min(height, 2 * threads);
  parallel(parts, threads, [&](auto next) {
    std::vector<float> wide(static_cast<std::size_t>(m.rows) * width), keep(width), weights(width);
    for (long long part; (part = next()) >= 0;) {
      for (long long k = 0; k < n; ++k) {
        widen(wide.data(), weights.data(), m, k, width, 1);
        for (long long y = height * part / parts; y < height * (part + 1) / parts; ++y) {
          keep_row(keep.data(), wide.data(), m, k, static_cast<int>(y), width);
          for (long long c = 0; c < classes; ++c)
            add_row(total + (c * height + y) * width, values[c * n + k], keep.data(), width);
        }
      }
    }
  });
}

template void accumulate_enlarged(double*, const double*, int, int, int, const GridMasks&, int,
                                  int);
template void accumulate_enlarged(double*, const double*, int, int, int, const MapMasks&, int, int);

}  // namespace backlight
