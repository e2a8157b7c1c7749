#include "rows.h"

#include <cstring>

#include "clones.h"

#if defined(__SSE2__)
#include <immintrin.h>
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

BL_CLONES void lerp_run(float* __restrict out, float a, float b, const float* __restrict w,
                        int n) {
  for (int i = 0; i < n; ++i) out[i] = lerp(a, b, w[i]);
}

#if defined(__GNUC__) && defined(__x86_64__)
#define BL_AVX2 1
#define BL_TARGET __attribute__((target("avx2,f16c")))
static bool has_avx2() {
  static const bool found = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
  return found;
}

// What blend_any and lerp_any spell out, by hand where compilers do worse: they know neither the
// instruction for half nor the one that multiplies and rounds, and narrow float through many
// shuffles. Each returns how many elements it did.
BL_TARGET static __m256 blend_eight(const float* image, const float* behind, const float* keep) {
  const __m256 k = _mm256_loadu_ps(keep), rest = _mm256_sub_ps(_mm256_set1_ps(1.0f), k);
  return _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(image), k),
                       _mm256_mul_ps(_mm256_loadu_ps(behind), rest));
}

BL_TARGET static int blend_wide(float* out, const float* image, const float* behind,
                                const float* keep, int n) {
  int i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(out + i, blend_eight(image + i, behind + i, keep + i));
  return i;
}

// The conversion gives what to_half does for every finite value.
BL_TARGET static __m128i blend_halves(const float* image, const float* behind,
                                      const float* keep) {
  return _mm256_cvtps_ph(blend_eight(image, behind, keep), _MM_FROUND_TO_NEAREST_INT);
}

BL_TARGET static int blend_wide(Half* out, const float* image, const float* behind,
                                const float* keep, int n) {
  int i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     blend_halves(image + i, behind + i, keep + i));
  return i;
}

BL_TARGET static __m256i lerp_eight(const float* a, const float* b, __m256 w) {
  const __m256 x = _mm256_loadu_ps(a), y = _mm256_loadu_ps(b);
  const __m256 keep = _mm256_add_ps(x, _mm256_mul_ps(w, _mm256_sub_ps(y, x)));
  const __m256 scaled = _mm256_mul_ps(keep, _mm256_set1_ps(32767.0f));
  return _mm256_cvttps_epi32(_mm256_add_ps(scaled, _mm256_set1_ps(0.5f)));
}

BL_TARGET static int lerp_wide(std::int16_t* out, const float* a, const float* b, float w, int n) {
  const __m256 weight = _mm256_set1_ps(w);
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256i low = lerp_eight(a + i, b + i, weight);
    const __m256i high = lerp_eight(a + i + 8, b + i + 8, weight);
    // The pack works on halves of a register: the middle two quarters come out exchanged.
    const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), both);
  }
  return i;
}

// Sixteen 16-bit numbers: the multiplication is the one that rounds as blend_byte does.
BL_TARGET static __m256i blend_sixteen(const std::int16_t* image, const std::int16_t* behind,
                                       const std::int16_t* keep) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(image));
  const __m256i base = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(behind));
  const __m256i k = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keep));
  return _mm256_add_epi16(_mm256_mulhrs_epi16(x, k), base);
}

BL_TARGET static int blend_wide(unsigned char* out, const std::int16_t* image,
                                const std::int16_t* behind, const std::int16_t* keep, int n) {
  int i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m256i low = blend_sixteen(image + i, behind + i, keep + i);
    const __m256i high = blend_sixteen(image + i + 16, behind + i + 16, keep + i + 16);
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packus_epi16(low, high), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), bytes);
  }
  return i;
}
#else
#define BL_AVX2 0
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

BL_CLONES void prepare_row(std::int16_t* __restrict image, std::int16_t* __restrict behind,
                           const unsigned char* __restrict x,
                           const unsigned char* __restrict base, int n) {
  for (int i = 0; i < n; ++i) {
    image[i] = static_cast<std::int16_t>(x[i] - base[i]);
    behind[i] = base[i];
  }
}

BL_CLONES static void lerp_any(std::int16_t* __restrict out, const float* __restrict a,
                               const float* __restrict b, float w, int n) {
  for (int i = 0; i < n; ++i)
    out[i] = static_cast<std::int16_t>(fixed_keep(lerp(a[i], b[i], w)));
}

void lerp_row(std::int16_t* out, const float* a, const float* b, float w, int n) {
  int done = 0;
#if BL_AVX2
  if (has_avx2()) done = lerp_wide(out, a, b, w, n);
#endif
  lerp_any(out + done, a + done, b + done, w, n - done);
}

BL_CLONES static void blend_any(float* __restrict out, const float* __restrict image,
                                const float* __restrict behind, const float* __restrict keep,
                                int n) {
  for (int i = 0; i < n; ++i) out[i] = blend(image[i], behind[i], keep[i]);
}

BL_CLONES static void blend_any(Half* __restrict out, const float* __restrict image,
                                const float* __restrict behind, const float* __restrict keep,
                                int n) {
  for (int i = 0; i < n; ++i) out[i] = to_half(blend(image[i], behind[i], keep[i]));
}

BL_CLONES static void blend_any(unsigned char* __restrict out,
                                const std::int16_t* __restrict image,
                                const std::int16_t* __restrict behind,
                                const std::int16_t* __restrict keep, int n) {
  for (int i = 0; i < n; ++i) out[i] = blend_byte(image[i], behind[i], keep[i]);
}

template <class T>
void blend_row(T* out, const typename Working<T>::type* image,
               const typename Working<T>::type* behind, const typename Working<T>::type* keep,
               int n) {
  int done = 0;
#if BL_AVX2
  if (has_avx2()) done = blend_wide(out, image, behind, keep, n);
#endif
  blend_any(out + done, image + done, behind + done, keep + done, n - done);
}

template void blend_row<float>(float*, const float*, const float*, const float*, int);
template void blend_row<Half>(Half*, const float*, const float*, const float*, int);
template void blend_row<unsigned char>(unsigned char*, const std::int16_t*, const std::int16_t*,
                                       const std::int16_t*, int);

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
