// Four lanes, written once and lowered by the compiler to the registers of an ISA. Only for reductions, where the
// order of the sum has to be spelled out; elementwise loops are plain scalar code. (Eight lanes in one type would suit
// AVX-512 better, but GCC 12 splits them badly for AVX2.)

constexpr int kStreams = 4;
typedef float Float4 __attribute__((vector_size(16)));
typedef double Double4 __attribute__((vector_size(32)));
typedef std::int32_t Int4 __attribute__((vector_size(16)));
