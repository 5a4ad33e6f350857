// The one list of everything that has a name: kernels, reductions, codecs.
//
// A kernel is added by two lines here: its header and its X(stem, Type). Tables, bindings and tests are derived from
// these lists. The lists may be read anywhere; the formulas are only included by a file that defines
// GAUDI3_RT_FORMULAS and opens a namespace of its own first, so that no two objects share an inline function: the
// linker keeps one copy of a shared one, and it might be the AVX-512 copy on a machine without AVX-512.

#ifdef GAUDI3_RT_FORMULAS
#include "codecs/bf16.h"
#include "codecs/f16.h"
#include "codecs/f32.h"
#include "kernels/adamw.h"
#include "reductions/all_finite.h"
#include "reductions/sum_squares.h"
#endif

// X(stem, Type): elementwise kernels; stem is the name that Python uses.
#define GAUDI3_RT_KERNELS(X) \
  X(adamw, AdamW<false>)     \
  X(adamw_amsgrad, AdamW<true>)

// X(stem, Type): reductions of one operand to one double per tensor.
#define GAUDI3_RT_REDUCTIONS(X) \
  X(sum_squares, SumSquares)    \
  X(all_finite, AllFinite)

// X(stem, Type): how an operand is stored in memory; every formula sees float.
#define GAUDI3_RT_CODECS(X) \
  X(f32, F32)               \
  X(bf16, BF16)             \
  X(f16, F16)
