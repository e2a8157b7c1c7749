#include "numbers.h"

#include <charconv>
#include <utility>

namespace backlight {

namespace {

// As deep as a tensor has dimensions.
constexpr int kDepth = 8;
constexpr double kTens[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                            1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

bool digit(char c) { return c >= '0' && c <= '9'; }
bool space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

class Reader {
 public:
  Reader(const char* at, const char* end, Numbers& into) : at_(at), end_(end), into_(into) {}

  const char* at() const { return at_; }

  // An array and all in it, all of whose parts are alike.
  bool array(int depth) {
    if (depth == kDepth) return false;
    auto& shape = into_.shape;
    const bool first = static_cast<int>(shape.size()) <= depth;
    if (first) shape.push_back(-1);
    std::int64_t count = 0;
    ++at_;  // its bracket
    do {
      if (!skip()) return false;
      if (*at_ == '[') {
        if (leaf_ >= 0 && leaf_ <= depth) return false;
        if (!array(depth + 1)) return false;
      } else {
        if (leaf_ < 0 && static_cast<int>(shape.size()) == depth + 1) leaf_ = depth;
        if (leaf_ != depth || !number()) return false;
      }
      ++count;
      if (!skip()) return false;
    } while (*at_++ == ',');
    if (at_[-1] != ']') return false;
    if (shape[depth] < 0) shape[depth] = count;
    return shape[depth] == count;
  }

 private:
  bool skip() {
    while (at_ < end_ && space(*at_)) ++at_;
    return at_ < end_;
  }

  bool number() {
    const char *at = at_, *const end = end_;  // members are read anew behind each write
    const bool minus = *at == '-';
    if (minus) ++at;
    const char* const head = at;
    std::uint64_t mantissa = 0;  // wraps where there are more than 19 digits: not used then
    for (; at < end && digit(*at); ++at) mantissa = 10 * mantissa + static_cast<unsigned>(*at - '0');
    std::ptrdiff_t digits = at - head;
    if (digits == 0 || (digits > 1 && *head == '0')) return false;
    bool whole = true;
    int exponent = 0;
    if (at < end && *at == '.') {
      const char* const point = ++at;
      for (; at < end && digit(*at); ++at)
        mantissa = 10 * mantissa + static_cast<unsigned>(*at - '0');
      if (at == point) return false;
      digits += at - point;
      exponent = static_cast<int>(point - at);
      whole = false;
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
      whole = false;
      ++at;
      const bool down = at < end && *at == '-';
      if (at < end && (*at == '-' || *at == '+')) ++at;
      const char* const power = at;
      int said = 0;
      for (; at < end && digit(*at); ++at) said = said > 9999 ? said : 10 * said + (*at - '0');
      if (at == power) return false;
      exponent += down ? -said : said;
    }
    const char* const begin = std::exchange(at_, at);
    if (whole) {
      if (digits > 15) return false;
      const auto value = static_cast<std::int64_t>(mantissa);
      into_.values.push_back(static_cast<double>(minus ? -value : value));
      return true;
    }
    into_.whole = false;
    // Both are exact as doubles, so that one division or product is rounded once.
    if (digits <= 19 && mantissa <= (1ULL << 53) && exponent >= -22 && exponent <= 22) {
      const auto value = static_cast<double>(mantissa);
      const double made = exponent < 0 ? value / kTens[-exponent] : value * kTens[exponent];
      into_.values.push_back(minus ? -made : made);
      return true;
    }
    return rounded(begin);
  }

  // A number of more digits, by the library's reader.
  bool rounded([[maybe_unused]] const char* begin) {
#ifdef __cpp_lib_to_chars
    double made = 0;
    const auto read = std::from_chars(begin, at_, made);
    if (read.ec != std::errc() || read.ptr != at_) return false;
    into_.values.push_back(made);
    return true;
#else
    return false;
#endif
  }

  const char* at_;
  const char* end_;
  Numbers& into_;
  int leaf_ = -1;  // the depth at which numbers are
};

// Behind the string that begins here.
const char* past_string(const char* at, const char* end) {
  for (++at; at < end; ++at) {
    if (*at == '\\') {
      ++at;
    } else if (*at == '"') {
      return at + 1;
    }
  }
  return end;
}

}  // namespace

Lifted lift(const char* text, std::size_t size, std::size_t least) {
  Lifted made;
  Numbers found;
  const char *at = text, *kept = text, *const end = text + size;
  // Where an array of numbers turned out to be something else, all in it stays: it is not looked
  // at again at each of its brackets.
  std::int64_t depth = 0, left = -1;
  while (at < end) {
    const char c = *at;
    if (c == '"') {
      at = past_string(at, end);
      continue;
    }
    if (c == ',') ++made.values;
    if (c == '[' && left < 0) {
      found.values.clear();
      found.shape.clear();
      found.whole = true;
      Reader reader(at, end, found);
      if (reader.array(0)) {
        if (found.values.size() >= least) {
          made.rest.append(kept, at);
          made.rest += "[" + std::to_string(made.arrays.size()) + ",null]";
          kept = reader.at();
          made.arrays.push_back(std::exchange(found, {}));
        } else {
          made.values += static_cast<std::int64_t>(found.values.size());
        }
        at = reader.at();
        continue;
      }
      if (!found.values.empty()) left = depth;
    }
    if (c == '[' || c == '{') ++depth;
    if ((c == ']' || c == '}') && --depth == left) left = -1;
    ++at;
  }
  made.rest.append(kept, end);
  return made;
}

}  // namespace backlight
