// printf of one value a call, with all its spellings. What is printed is given to the caller of the run.
#pragma once
#include <cstdio>

#include "state.h"
#include "types.h"

namespace gaudi3_rt::tpc {

constexpr std::size_t kMaxPrinted = std::size_t{1} << 20;

inline void print_text(const char* text) {
  if (machine.run->n_tensors == kMaxTensors) fail("printf needs a place for a tensor of its own: main may have 15.");
  if (machine.printed.size() < kMaxPrinted) machine.printed += text;
}

// Where the conversion is in a format, "%%" apart: its "%" and its letter; both at the end if there is none.
struct Conversion {
  const char* begin;
  const char* letter;
};
inline Conversion find_conversion(const char* format) {
  const char* p = format;
  for (; *p != '\0'; ++p) {
    if (*p != '%') continue;
    if (p[1] == '%') {
      ++p;
      continue;
    }
    const char* letter = p + 1;
    while (*letter != '\0' && std::strchr("diuoxXeEfFgGaAcsp", *letter) == nullptr) ++letter;
    return {p, letter};
  }
  return {p, p};
}

inline void print(const char* format) {
  if (*find_conversion(format).begin != '\0') fail("printf was given \"%s\" without a value.", format);
  std::string plain;
  for (const char* p = format; *p != '\0'; ++p) {
    plain += *p;
    if (p[0] == '%' && p[1] == '%') ++p;
  }
  print_text(plain.c_str());
}

template <class S>
void print(const char* format, S value) {
  static_assert(kIsFloat<S> || std::is_arithmetic_v<S>, "printf prints one number, not a vector or a pointer");
  constexpr bool kFloat = kIsFloat<S> || std::is_floating_point_v<S>;
  const Conversion c = find_conversion(format);
  if (*c.begin == '\0' || *c.letter == '\0') fail("printf takes one value, and \"%s\" has no place for it.", format);
  if (*find_conversion(c.letter + 1).begin != '\0') {
    fail("printf takes one value a call, but \"%s\" has places for more.", format);
  }
  const bool float_letter = std::strchr("eEfFgGaA", *c.letter) != nullptr;
  const bool integer_letter = std::strchr("diuoxXc", *c.letter) != nullptr;
  if (kFloat ? !float_letter : !integer_letter) {
    fail("printf was given a %s for \"%s\".", kFloat ? "float" : "integer", format);
  }
  // Flags, width and precision of the kernel, the length of what is passed here.
  std::string spec(c.begin, c.letter);
  while (!spec.empty() && std::strchr("hlqjzt", spec.back()) != nullptr) spec.pop_back();
  char text[512];
  if constexpr (kFloat) {
    spec += *c.letter;
    std::snprintf(text, sizeof text, spec.c_str(), static_cast<double>(static_cast<float>(value)));
  } else if (*c.letter == 'c') {
    spec += 'c';
    std::snprintf(text, sizeof text, spec.c_str(), static_cast<int>(value));
  } else {
    spec += "ll";
    spec += *c.letter;
    if (*c.letter == 'd' || *c.letter == 'i') {
      std::snprintf(text, sizeof text, spec.c_str(), static_cast<long long>(value));
    } else {
      std::snprintf(text, sizeof text, spec.c_str(),
                    static_cast<unsigned long long>(value) & (~0ULL >> (64 - 8 * sizeof(S))));
    }
  }
  print(std::string(format, c.begin).c_str());
  print_text(text);
  print(c.letter + 1);
}

}  // namespace gaudi3_rt::tpc

#define printf(...) gaudi3_rt::tpc::print(__VA_ARGS__)
#define G3RT_PRINTF(name, S) \
  G3RT_INTRINSIC void printf_##name(const char* format, S value) { gaudi3_rt::tpc::print(format, value); }
G3RT_PRINTF(i, std::int32_t)
G3RT_PRINTF(ui, std::uint32_t)
G3RT_PRINTF(f, float)
G3RT_PRINTF(bf, bf16)
G3RT_PRINTF(h, half)
G3RT_PRINTF(s, std::int16_t)
G3RT_PRINTF(us, std::uint16_t)
G3RT_PRINTF(c, std::int8_t)
G3RT_PRINTF(uc, std::uint8_t)
#undef G3RT_PRINTF
inline void printf_st(const char* text) { gaudi3_rt::tpc::print(text); }
