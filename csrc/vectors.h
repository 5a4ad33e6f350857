// Registers of several lanes, lowered by the compiler to what an ISA has. Only for reductions, where the order of the
// sum has to be spelled out; elementwise loops are plain scalar code. A stream has eight lanes on every ISA; they are
// held in one register or in two, because GCC 12 splits a vector that is wider than the machine's badly.

constexpr int kStreams = 4;
constexpr int kLanes = 8;
#ifdef __AVX512F__
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
constexpr int kParts = kLanes / kWidth;
typedef float Floats __attribute__((vector_size(kWidth * sizeof(float))));
typedef double Doubles __attribute__((vector_size(kWidth * sizeof(double))));
typedef std::int64_t Longs __attribute__((vector_size(kWidth * sizeof(std::int64_t))));
typedef std::int32_t Ints __attribute__((vector_size(kWidth * sizeof(std::int32_t))));

// kWidth floats as doubles. GCC 12 builds the conversion of a whole register from those of its parts, and warns of its
// own header where the instruction is asked for without a mask.
inline void widen(const float* x, Doubles& wide) {
#if defined(__AVX512F__)
  wide = _mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(x));
#elif defined(__AVX2__)
  wide = _mm256_cvtps_pd(_mm_loadu_ps(x));
#else
  Floats narrow;
  __builtin_memcpy(&narrow, x, sizeof(narrow));
  wide = __builtin_convertvector(narrow, Doubles);
#endif
}

// Adds the squares of floats to a sum. They are exact in double, so it does not matter whether they are rounded.
inline void add_squares(const Doubles& x, Doubles& sum) {
#if defined(__AVX512F__)
  sum = _mm512_fmadd_pd(x, x, sum);
#elif defined(__FMA__)
  sum = _mm256_fmadd_pd(x, x, sum);
#else
  sum += x * x;
#endif
}

// One running sum per stream and lane. An element's place in its chunk decides which one it is added to (isa/body.h),
// and total() adds them up in one order: the bits of a sum are the same on every ISA.
struct LaneSums {
  Doubles of[kStreams][kParts] = {};

  double total() const {
    double lanes[kLanes] = {};
    for (int stream = 0; stream < kStreams; ++stream) {
      for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += of[stream][lane / kWidth][lane % kWidth];
    }
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
  }
};
