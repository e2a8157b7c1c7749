// GCC builds each function so marked for the baseline and for AVX2, and picks one when the module
// loads.
#pragma once

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__gnu_linux__)
#define BL_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define BL_CLONES
#endif
