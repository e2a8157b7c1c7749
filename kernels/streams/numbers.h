// Arrays of numbers in JSON text, read without Python's objects.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace backlight {

// An array. shape: of its nesting, which is regular. whole: no number has a fraction or exponent.
struct Numbers {
  std::vector<double> values;
  std::vector<std::int64_t> shape;
  bool whole = true;
};

// What is left of a text. rest: in place of the array number k stands `[k,null]`. values: how many
// it has beside what was lifted, or more.
struct Lifted {
  std::string rest;
  std::vector<Numbers> arrays;
  std::int64_t values = 1;
};

// Takes arrays of `least` numbers or more out of a text, whatever else is in it: what isn't an
// array by JSON's grammar, of numbers that a double holds as any reader would read them, stays.
Lifted lift(const char* text, std::size_t size, std::size_t least);

}  // namespace backlight
