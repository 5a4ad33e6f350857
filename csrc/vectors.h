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
typedef std::int32_t Ints __attribute__((vector_size(kWidth * sizeof(std::int32_t))));
