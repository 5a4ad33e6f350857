// The one list of everything that has a name: kernels, reductions, maps, transfers, codecs, wires.
//
// A kernel is added by two lines here: its header and its X(stem, Type). Tables, bindings and tests are derived from
// these lists. The lists may be read anywhere; the formulas are only included by a file that defines
// GAUDI3_RT_FORMULAS and opens a namespace of its own first, so that no two objects share an inline function: the
// linker keeps one copy of a shared one, and it might be the AVX-512 copy on a machine without AVX-512.

#ifdef GAUDI3_RT_FORMULAS
#include "codecs/bf16.h"
#include "codecs/bf16_master.h"
#include "codecs/bf16_split.h"
#include "codecs/bf16_stochastic.h"
#include "codecs/block.h"
#include "codecs/f16.h"
#include "codecs/f32.h"
#include "codecs/fp8_block.h"
#include "codecs/int8_block.h"
#include "kernels/adagrad.h"
#include "kernels/adam.h"
#include "kernels/adamw.h"
#include "kernels/ema.h"
#include "kernels/lamb.h"
#include "kernels/lars.h"
#include "kernels/lion.h"
#include "kernels/muon.h"
#include "kernels/sgd.h"
#include "maps/clamp.h"
#include "maps/scale.h"
#include "reductions/all_finite.h"
#include "reductions/max_abs.h"
#include "reductions/sum_abs.h"
#include "reductions/sum_squares.h"
#include "transfers/accumulate.h"
#include "transfers/cast.h"
#include "wires/bfloat16.h"
#include "wires/int8.h"
#endif

// X(stem, Type): kernels of optimizers; stem is the name that Python uses.
#define GAUDI3_RT_KERNELS(X)                    \
  X(adagrad, Adagrad)                           \
  X(adam, Adam<false>)                          \
  X(adam_amsgrad, Adam<true>)                   \
  X(adamw, AdamW<false>)                        \
  X(adamw_amsgrad, AdamW<true>)                 \
  X(ema, EMA)                                   \
  X(lamb, Lamb<false>)                          \
  X(lamb_l2, Lamb<true>)                        \
  X(lars, Lars<false>)                          \
  X(lars_nesterov, Lars<true>)                  \
  X(lion, Lion)                                 \
  X(muon_apply, MuonApply)                      \
  X(muon_momentum, MuonMomentum<false>)         \
  X(muon_momentum_nesterov, MuonMomentum<true>) \
  X(sgd, SGD<Momentum::none>)                   \
  X(sgd_momentum, SGD<Momentum::heavy_ball>)    \
  X(sgd_nesterov, SGD<Momentum::nesterov>)

// X(stem, Type): reductions of one operand to one double per tensor.
#define GAUDI3_RT_REDUCTIONS(X) \
  X(sum_squares, SumSquares)    \
  X(sum_abs, SumAbs)            \
  X(max_abs, MaxAbs)            \
  X(all_finite, AllFinite)

// X(stem, Type): functions of one element that replace it in place.
#define GAUDI3_RT_MAPS(X) \
  X(scale, Scale)         \
  X(clamp, Clamp)

// X(stem, Type): functions of one element of each of two tensors, of which the second takes the result.
#define GAUDI3_RT_TRANSFERS(X) \
  X(cast, Cast)                \
  X(accumulate, Accumulate)

// X(stem, Type): how a gradient is sent.
#define GAUDI3_RT_WIRES(X)  \
  X(bfloat16, Bfloat16Wire) \
  X(int8, Int8Wire)

// X(stem, Type...): how an operand is stored in memory; every formula sees float. The first three are torch dtypes that
// need nothing besides; "_positive" is for what cannot be negative.
#define GAUDI3_RT_CODECS(X)                                              \
  X(f32, F32)                                                            \
  X(bf16, BF16)                                                          \
  X(f16, F16)                                                            \
  X(bf16_stochastic, BF16Stochastic)                                     \
  X(bf16_split, BF16Split)                                               \
  X(bf16_master, BF16Master)                                             \
  X(int8_block, Block<LogCode<false>, false>)                            \
  X(int8_block_positive, Block<LogCode<true>, true>)                     \
  X(e4m3_block, Block<MiniFloat<3, 7, 0x7e, false, false>, false>)       \
  X(e4m3_block_positive, Block<MiniFloat<3, 7, 0x7e, true, true>, true>) \
  X(e5m2_block, Block<MiniFloat<2, 15, 0x7b, false, false>, false>)      \
  X(e5m2_block_positive, Block<MiniFloat<2, 15, 0x7b, true, false>, true>)

// X(name): states that cannot be negative, whichever kernel keeps them.
#define GAUDI3_RT_POSITIVE_STATES(X) \
  X(exp_avg_sq)                      \
  X(max_exp_avg_sq)                  \
  X(sum)
