#include "rows.h"

#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
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

#if defined(__GNUC__) && defined(__x86_64__)
#define BL_F16C 1
// One instruction for what to_half spells out; the same result for every finite value.
__attribute__((target("avx,f16c"))) static int blend_half_row(Half* out, const float* x,
                                                              const float* base,
                                                              const float* keep, int n) {
  const __m256 one = _mm256_set1_ps(1.0f);
  int i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 k = _mm256_loadu_ps(keep + i);
    const __m256 shown = _mm256_mul_ps(_mm256_loadu_ps(x + i), k);
    const __m256 hidden = _mm256_mul_ps(_mm256_loadu_ps(base + i), _mm256_sub_ps(one, k));
    const __m128i half = _mm256_cvtps_ph(_mm256_add_ps(shown, hidden), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), half);
  }
  return i;
}
#else
#define BL_F16C 0
#endif

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

BL_CLONES void prepare_row(float* __restrict image, float* __restrict behind,
                           const float* __restrict x, const float* __restrict base, int n) {
  for (int i = 0; i < n; ++i) image[i] = x[i], behind[i] = base[i];
}

BL_CLONES void prepare_row(float* __restrict image, float* __restrict behind,
                           const Half* __restrict x, const Half* __restrict base, int n) {
  for (int i = 0; i < n; ++i) image[i] = to_float(x[i]), behind[i] = to_float(base[i]);
}

BL_CLONES void prepare_row(float* __restrict image, float* __restrict behind,
                           const unsigned char* __restrict x,
                           const unsigned char* __restrict base, int n) {
  for (int i = 0; i < n; ++i) {
    image[i] = to_float(x[i]) - to_float(base[i]);
    behind[i] = to_float(base[i]) + 0.5f;
  }
}

BL_CLONES void blend_row(float* __restrict out, const float* __restrict image,
                         const float* __restrict behind, const float* __restrict keep, int n) {
  for (int i = 0; i < n; ++i) out[i] = blend(image[i], behind[i], keep[i]);
}

BL_CLONES void blend_row(unsigned char* __restrict out, const float* __restrict image,
                         const float* __restrict behind, const float* __restrict keep, int n) {
  for (int i = 0; i < n; ++i) out[i] = blend_byte(image[i], behind[i], keep[i]);
}

BL_CLONES void blend_any_half_row(Half* __restrict out, const float* __restrict x,
                                  const float* __restrict base, const float* __restrict keep,
                                  int n) {
  for (int i = 0; i < n; ++i) out[i] = to_half(blend(x[i], base[i], keep[i]));
}

void blend_row(Half* out, const float* x, const float* base, const float* keep, int n) {
  int done = 0;
#if BL_F16C
  static const bool supported = __builtin_cpu_supports("avx") && __builtin_cpu_supports("f16c");
  if (supported) done = blend_half_row(out, x, base, keep, n);
#endif
  blend_any_half_row(out + done, x + done, base + done, keep + done, n - done);
}

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
