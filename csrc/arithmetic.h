// The few operations that formulas are written in. Like the formulas, included inside a namespace of the includer.

// For parts of a formula that other parts call: inlined so early that the arrays of the calling loop still become
// registers, without which GCC 12 does not vectorise it.
#define GAUDI3_RT_EARLY __attribute__((always_inline))

inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline float sqrt(float x) { return __builtin_sqrtf(x); }
inline double sqrt(double x) { return __builtin_sqrt(x); }

// The larger of two numbers; a NaN on either side wins, as in torch.maximum.
template <class T>
inline T nan_max(T a, T b) {
  return a < b || b != b ? b : a;
}

template <class To, class From>
inline To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}
