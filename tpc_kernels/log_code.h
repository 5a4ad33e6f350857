/* The int8 code of csrc/codecs/int8_block.h, which explains it: a logarithm whose basis each block of 256 chooses.
   Everything here is of integers or correctly rounded, so codes and scales have the bits of the CPU's. */
#ifndef GAUDI3_RT_TPC_LOG_CODE_H
#define GAUDI3_RT_TPC_LOG_CODE_H

#include "elements.h"
#include "roots.h"

#ifdef POSITIVE
#define HIGHEST 255
#else
#define HIGHEST 127
#endif
#define OCTAVE (1 << 23)
#define BITS_OF_ONE (127 << 23)
#define BITS_OF_FOUR (129 << 23)

/* Towards zero, as C converts. */
static inline int64 to_int(float64 x) { return v_convert_f32_to_i32_b(x, SW_RZ); }
static inline float64 to_float(int64 x) { return v_convert_i32_to_f32_b(x, SW_RHNE); }

/* The distance of two codes in a float's bits. */
static inline float64 bits_per_code(float64 codes_per_octave) { return g3rt_divide((float)OCTAVE, codes_per_octave); }

#endif
