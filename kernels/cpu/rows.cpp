#include "rows.h"

#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

// GCC builds each function for the baseline and for AVX2, and picks one when the module loads.
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__gnu_linux__)
#define BL_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define BL_CLONES
#endif

namespace backlight {

void copy_row(void* dst, const void* src, std::size_t bytes, bool stream) {
#if defined(__SSE2__)
  constexpr std::size_t line = 64;
  if (stream && bytes >= 4 * line) {
    char* d = static_cast<char*>(dst);
    const char* s = static_cast<const char*>(src);
    const std::size_t head = (line - reinterpret_cast<std::uintptr_t>(d) % line) % line;
    std::memcpy(d, s, head);
    std::size_t i = head;
    for (; i + line <= bytes; i += line) {
      const __m128i* from = reinterpret_cast<const __m128i*>(s + i);
      __m128i* to = reinterpret_cast<__m128i*>(d + i);
      const __m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1);
      const __m128i c = _mm_loadu_si128(from + 2), e = _mm_loadu_si128(from + 3);
      _mm_stream_si128(to, a);
      _mm_stream_si128(to + 1, b);
      _mm_stream_si128(to + 2, c);
      _mm_stream_si128(to + 3, e);
    }
    std::memcpy(d + i, s + i, bytes - i);
    return;
  }
#endif
  (void)stream;
  std::memcpy(dst, src, bytes);
}

void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

BL_CLONES void lerp_row(float* __restrict out, const float* __restrict a,
                        const float* __restrict b, float w, int n) {
  for (int i = 0; i < n; ++i) out[i] = lerp(a[i], b[i], w);
}

#define BL_FLOAT_ROWS(T)                                                                         \
  BL_CLONES void float_row(float* __restrict out, const T* __restrict x, int n) {                \
    for (int i = 0; i < n; ++i) out[i] = to_float(x[i]);                                         \
  }                                                                                              \
  BL_CLONES void blend_row(T* __restrict out, const float* __restrict x,                         \
                           const float* __restrict base, const float* __restrict keep, int n) {  \
    for (int i = 0; i < n; ++i) from_float(blend(x[i], base[i], keep[i]), out[i]);               \
  }

#define BL_MASK_ROWS(T)                                                                          \
  BL_CLONES void mask_row(T* __restrict mask, const std::uint32_t* __restrict words, int bit,    \
                          int n) {                                                               \
    for (int i = 0; i < n; ++i) mask[i] = static_cast<T>(0u - ((words[i] >> bit) & 1u));         \
  }                                                                                              \
  BL_CLONES void select_row(T* __restrict out, const T* __restrict x, const T* __restrict base,  \
                            const T* __restrict mask, int n) {                                   \
    for (int i = 0; i < n; ++i)                                                                  \
      out[i] = static_cast<T>(base[i] ^ ((base[i] ^ x[i]) & mask[i]));                           \
  }

BL_FLOAT_ROWS(float)
BL_FLOAT_ROWS(Half)
BL_FLOAT_ROWS(unsigned char)

BL_MASK_ROWS(std::uint32_t)
BL_MASK_ROWS(std::uint16_t)
BL_MASK_ROWS(std::uint8_t)

BL_CLONES void add_row(double* total, double value, int n) {
  for (int i = 0; i < n; ++i) total[i] += value;
}

BL_CLONES void add_row(double* __restrict total, double value, const float* __restrict keep,
                       int n) {
  for (int i = 0; i < n; ++i) total[i] += value * static_cast<double>(keep[i]);
}

}  // namespace backlight
