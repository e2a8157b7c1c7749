// Loops over one row: the part a compiler vectorises, built once per instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../masks.h"

namespace backlight {

// dst = src. stream: past the cache, for an output that would not stay in it anyway; end a run of
// such copies with stream_fence().
void copy_row(void* dst, const void* src, std::size_t bytes, bool stream);
void stream_fence();

// out = a + w * (b - a), or the fixed_keep of that
void lerp_row(float* out, const float* a, const float* b, float w, int n);
void lerp_row(std::int16_t* out, const float* a, const float* b, float w, int n);

// The same between two numbers, with a weight for each element.
void lerp_run(float* out, float a, float b, const float* w, int n);

// What blend_row works in: float, or for bytes 16-bit whole numbers.
template <class T>
struct Working {
  using type = float;
};
template <>
struct Working<unsigned char> {
  using type = std::int16_t;
};

// What blend_row wants of an image and a baseline: themselves, or for bytes x - base and base. Of
// what a mask keeps it wants itself, or its fixed_keep.
void prepare_row(float* image, float* behind, const float* x, const float* base, int n);
void prepare_row(float* image, float* behind, const Half* x, const Half* base, int n);
void prepare_row(std::int16_t* image, std::int16_t* behind, const unsigned char* x,
                 const unsigned char* base, int n);

// out = the blend of what prepare_row gave, rounded to out's type: float, Half, unsigned char.
template <class T>
void blend_row(T* out, const typename Working<T>::type* image,
               const typename Working<T>::type* behind, const typename Working<T>::type* keep,
               int n);

// mask = all ones where the bit of the word is set, else all zeros
void mask_row(std::uint32_t* mask, const std::uint32_t* words, int bit, int n);
void mask_row(std::uint16_t* mask, const std::uint32_t* words, int bit, int n);
void mask_row(std::uint8_t* mask, const std::uint32_t* words, int bit, int n);

// out = mask ? x : base
void select_row(std::uint32_t* out, const std::uint32_t* x, const std::uint32_t* base,
                const std::uint32_t* mask, int n);
void select_row(std::uint16_t* out, const std::uint16_t* x, const std::uint16_t* base,
                const std::uint16_t* mask, int n);
void select_row(std::uint8_t* out, const std::uint8_t* x, const std::uint8_t* base,
                const std::uint8_t* mask, int n);

// total += value, total += value * keep
void add_row(double* total, double value, int n);
void add_row(double* total, double value, const float* keep, int n);

}  // namespace backlight
