// Which TPC kernels there are, which tensors they take in which order, and which elements of them a member touches.
// The glue library, the Python side and the tests are all driven by this table.
#pragma once
#include <cstdint>

#include "geometry.h"

namespace gaudi3_rt::tpc {

enum class Dtype : std::uint8_t { f32, bf16, i8, u8, i32 };

// The elements of a tensor that member i of the (one-dimensional) index space touches.
enum class Access : std::uint8_t {
  elements,  // [i * kMemberElements, (i + 1) * kMemberElements)
  rows,      // the same of dimension 0, and all of dimension 1, which has 1 to kMaxShards
  whole,     // all
  partial,   // element i: one result a member
  scales,    // [i * kMemberElements / kBlockElements, ...): one number a block
};

struct Operand {
  const char* name;
  Dtype dtype;
  Access access;
  std::uint32_t size = 0;  // elements of one with Access::whole; 0: any number
};

constexpr int kMaxOperands = 12;

// Unused places of inputs and outputs have no name. The parameters of a kernel's main are its inputs, then its outputs.
// All step constants come in a tensor named "scalars", so that a changed learning rate recompiles nothing. For a kernel
// of an optimizer it holds what the CPU kernel's constructor computes, in the order of its visit(), then grad_factor;
// all kernels of one step take the same scalars. The tests compare their number with visit() and with what is read.
// An output that has the name of an input may share its memory. All tensors have one dimension but those of
// Access::rows.
struct Kernel {
  const char* name;     // the GUID is "g3rt_" + name
  const char* source;   // file in tpc_kernels
  const char* defines;  // macros that the file is compiled with, between spaces; "" for none
  const char* cpu;      // what csrc/registry.h names that has this formula; "" where there is nothing
  Operand inputs[kMaxOperands];
  Operand outputs[kMaxOperands];
  bool single_member = false;  // an index space of one, for kernels that finish a reduction
};

#define G3RT_F32(name) \
  Operand { name, Dtype::f32, Access::elements }
#define G3RT_BF16(name) \
  Operand { name, Dtype::bf16, Access::elements }
#define G3RT_ANY_NUMBER(name) \
  Operand { name, Dtype::f32, Access::whole }
#define G3RT_ONE(name) Operand{name, Dtype::f32, Access::whole, 1}
#define G3RT_SCALARS(count) \
  Operand { "scalars", Dtype::f32, Access::whole, count }
#define G3RT_PARTIAL(name) \
  Operand { name, Dtype::f32, Access::partial }
#define G3RT_KEYS Operand{"keys", Dtype::i32, Access::whole, 4}
#define G3RT_LARGEST \
  Operand { "largest", Dtype::f32, Access::scales }
#define G3RT_CODES_PER_OCTAVE \
  Operand { "codes_per_octave", Dtype::f32, Access::scales }
#define G3RT_SHARDS(dtype) \
  Operand { "shards", dtype, Access::rows }
#define G3RT_STATES(...) __VA_ARGS__

// A step of one pass, with states; in f32, and with a bf16 gradient and a bf16 copy of the parameter written besides.
#define G3RT_STEP(name, source, defines, scalars, states)                      \
  {name "_f32",                                                                \
   source,                                                                     \
   defines,                                                                    \
   name,                                                                       \
   {G3RT_F32("param"), G3RT_F32("grad"), states, G3RT_SCALARS(scalars)},       \
   {G3RT_F32("param"), states}},                                               \
  {                                                                            \
    name "_bf16", source, defines " BF16", name,                               \
        {G3RT_F32("param"), G3RT_BF16("grad"), states, G3RT_SCALARS(scalars)}, \
        {G3RT_F32("param"), states, G3RT_BF16("param_bf16")},                  \
  }

// The same without states.
#define G3RT_STATELESS_STEP(name, source, defines, scalars)                                                     \
  {name "_f32",        source, defines, name, {G3RT_F32("param"), G3RT_F32("grad"), G3RT_SCALARS(scalars)},     \
   {G3RT_F32("param")}},                                                                                        \
  {                                                                                                             \
    name "_bf16", source, defines " BF16", name, {G3RT_F32("param"), G3RT_BF16("grad"), G3RT_SCALARS(scalars)}, \
        {G3RT_F32("param"), G3RT_BF16("param_bf16")},                                                           \
  }

inline constexpr Kernel kKernels[] = {
    G3RT_STEP("adamw", "adamw.c", "", 9, G3RT_STATES(G3RT_F32("exp_avg"), G3RT_F32("exp_avg_sq"))),
    G3RT_STEP("adamw_amsgrad", "adamw.c", "AMSGRAD", 9,
              G3RT_STATES(G3RT_F32("exp_avg"), G3RT_F32("exp_avg_sq"), G3RT_F32("max_exp_avg_sq"))),
    G3RT_STEP("adam", "adam.c", "", 10, G3RT_STATES(G3RT_F32("exp_avg"), G3RT_F32("exp_avg_sq"))),
    G3RT_STEP("adam_amsgrad", "adam.c", "AMSGRAD", 10,
              G3RT_STATES(G3RT_F32("exp_avg"), G3RT_F32("exp_avg_sq"), G3RT_F32("max_exp_avg_sq"))),
    G3RT_STATELESS_STEP("sgd", "sgd.c", "", 5),
    G3RT_STEP("sgd_momentum", "sgd.c", "MOMENTUM", 5, G3RT_F32("momentum_buffer")),
    G3RT_STEP("sgd_nesterov", "sgd.c", "MOMENTUM NESTEROV", 5, G3RT_F32("momentum_buffer")),
    G3RT_STEP("lion", "lion.c", "", 7, G3RT_F32("exp_avg")),
    G3RT_STEP("adagrad", "adagrad.c", "", 4, G3RT_F32("sum")),
    G3RT_STATELESS_STEP("ema", "ema.c", "", 2),

    // Two passes with a finish between them: moments and partial sums of squares, ratio of the norms, step.
    {"lamb_first_f32",
     "lamb_first.c",
     "",
     "lamb",
     {G3RT_F32("param"), G3RT_F32("grad"), G3RT_F32("exp_avg"), G3RT_F32("exp_avg_sq"), G3RT_SCALARS(12)},
     {G3RT_F32("exp_avg"), G3RT_F32("exp_avg_sq"), G3RT_PARTIAL("param_sums"), G3RT_PARTIAL("update_sums")}},
    {"lamb_first_bf16",
     "lamb_first.c",
     "BF16",
     "lamb",
     {G3RT_F32("param"), G3RT_BF16("grad"), G3RT_F32("exp_avg"), G3RT_F32("exp_avg_sq"), G3RT_SCALARS(12)},
     {G3RT_F32("exp_avg"), G3RT_F32("exp_avg_sq"), G3RT_PARTIAL("param_sums"), G3RT_PARTIAL("update_sums")}},
    {"lamb_l2_first_f32",
     "lamb_first.c",
     "L2",
     "lamb_l2",
     {G3RT_F32("param"), G3RT_F32("grad"), G3RT_F32("exp_avg"), G3RT_F32("exp_avg_sq"), G3RT_SCALARS(12)},
     {G3RT_F32("exp_avg"), G3RT_F32("exp_avg_sq"), G3RT_PARTIAL("param_sums"), G3RT_PARTIAL("update_sums")}},
    {"lamb_l2_first_bf16",
     "lamb_first.c",
     "L2 BF16",
     "lamb_l2",
     {G3RT_F32("param"), G3RT_BF16("grad"), G3RT_F32("exp_avg"), G3RT_F32("exp_avg_sq"), G3RT_SCALARS(12)},
     {G3RT_F32("exp_avg"), G3RT_F32("exp_avg_sq"), G3RT_PARTIAL("param_sums"), G3RT_PARTIAL("update_sums")}},
    {"lamb_ratio_f32",
     "lamb_ratio.c",
     "",
     "",
     {G3RT_ANY_NUMBER("param_sums"), G3RT_ANY_NUMBER("update_sums"), G3RT_SCALARS(12)},
     {G3RT_ONE("ratio")},
     true},
    {"lamb_second_f32",
     "lamb_second.c",
     "",
     "lamb",
     {G3RT_F32("param"), G3RT_F32("exp_avg"), G3RT_F32("exp_avg_sq"), G3RT_ONE("ratio"), G3RT_SCALARS(12)},
     {G3RT_F32("param")}},
    {"lamb_second_bf16",
     "lamb_second.c",
     "BF16",
     "lamb",
     {G3RT_F32("param"), G3RT_F32("exp_avg"), G3RT_F32("exp_avg_sq"), G3RT_ONE("ratio"), G3RT_SCALARS(12)},
     {G3RT_F32("param"), G3RT_BF16("param_bf16")}},
    {"lamb_l2_second_f32",
     "lamb_second.c",
     "L2",
     "lamb_l2",
     {G3RT_F32("param"), G3RT_F32("exp_avg"), G3RT_F32("exp_avg_sq"), G3RT_ONE("ratio"), G3RT_SCALARS(12)},
     {G3RT_F32("param")}},
    {"lamb_l2_second_bf16",
     "lamb_second.c",
     "L2 BF16",
     "lamb_l2",
     {G3RT_F32("param"), G3RT_F32("exp_avg"), G3RT_F32("exp_avg_sq"), G3RT_ONE("ratio"), G3RT_SCALARS(12)},
     {G3RT_F32("param"), G3RT_BF16("param_bf16")}},
    {"lars_first_f32",
     "lars_first.c",
     "",
     "lars",
     {G3RT_F32("param"), G3RT_F32("grad"), G3RT_SCALARS(12)},
     {G3RT_PARTIAL("param_sums"), G3RT_PARTIAL("grad_sums")}},
    {"lars_first_bf16",
     "lars_first.c",
     "BF16",
     "lars",
     {G3RT_F32("param"), G3RT_BF16("grad"), G3RT_SCALARS(12)},
     {G3RT_PARTIAL("param_sums"), G3RT_PARTIAL("grad_sums")}},
    {"lars_ratio_f32",
     "lars_ratio.c",
     "",
     "",
     {G3RT_ANY_NUMBER("param_sums"), G3RT_ANY_NUMBER("grad_sums"), G3RT_SCALARS(12)},
     {G3RT_ONE("ratio")},
     true},
    {"lars_second_f32",
     "lars_second.c",
     "",
     "lars",
     {G3RT_F32("param"), G3RT_F32("grad"), G3RT_F32("momentum_buffer"), G3RT_ONE("ratio"), G3RT_SCALARS(12)},
     {G3RT_F32("param"), G3RT_F32("momentum_buffer")}},
    {"lars_second_bf16",
     "lars_second.c",
     "BF16",
     "lars",
     {G3RT_F32("param"), G3RT_BF16("grad"), G3RT_F32("momentum_buffer"), G3RT_ONE("ratio"), G3RT_SCALARS(12)},
     {G3RT_F32("param"), G3RT_F32("momentum_buffer"), G3RT_BF16("param_bf16")}},
    {"lars_nesterov_second_f32",
     "lars_second.c",
     "NESTEROV",
     "lars_nesterov",
     {G3RT_F32("param"), G3RT_F32("grad"), G3RT_F32("momentum_buffer"), G3RT_ONE("ratio"), G3RT_SCALARS(12)},
     {G3RT_F32("param"), G3RT_F32("momentum_buffer")}},
    {"lars_nesterov_second_bf16",
     "lars_second.c",
     "NESTEROV BF16",
     "lars_nesterov",
     {G3RT_F32("param"), G3RT_BF16("grad"), G3RT_F32("momentum_buffer"), G3RT_ONE("ratio"), G3RT_SCALARS(12)},
     {G3RT_F32("param"), G3RT_F32("momentum_buffer"), G3RT_BF16("param_bf16")}},

    // Sums, the clip coefficient, and what is done to gradients.
    {"sum_squares_f32",
     "sum_squares.c",
     "",
     "sum_squares",
     {G3RT_F32("x")},
     {G3RT_PARTIAL("sums"), G3RT_PARTIAL("nonfinite")}},
    {"sum_squares_bf16",
     "sum_squares.c",
     "BF16",
     "sum_squares",
     {G3RT_BF16("x")},
     {G3RT_PARTIAL("sums"), G3RT_PARTIAL("nonfinite")}},
    {"sum_finish_f32", "sum_finish.c", "", "", {G3RT_ANY_NUMBER("partials")}, {G3RT_ONE("total")}, true},
    {"clip_coefficient_f32",
     "clip_coefficient.c",
     "",
     "",
     {G3RT_ANY_NUMBER("sums"), G3RT_SCALARS(2)},
     {G3RT_ONE("norm"), G3RT_ONE("coefficient")},
     true},
    {"scale_f32", "scale.c", "", "scale", {G3RT_F32("x"), G3RT_ONE("factor")}, {G3RT_F32("x")}},
    {"scale_bf16", "scale.c", "BF16", "scale", {G3RT_BF16("x"), G3RT_ONE("factor")}, {G3RT_BF16("x")}},
    {"unscale_f32",
     "scale.c",
     "COUNT_NONFINITE",
     "scale",
     {G3RT_F32("x"), G3RT_ONE("factor")},
     {G3RT_F32("x"), G3RT_PARTIAL("nonfinite")}},
    {"unscale_bf16",
     "scale.c",
     "BF16 COUNT_NONFINITE",
     "scale",
     {G3RT_BF16("x"), G3RT_ONE("factor")},
     {G3RT_BF16("x"), G3RT_PARTIAL("nonfinite")}},
    {"found_inf_f32",
     "found_inf.c",
     "",
     "",
     {G3RT_ANY_NUMBER("nonfinite"), G3RT_ONE("found_inf")},
     {G3RT_ONE("found_inf")},
     true},

    // Reduction of gradients. Those that go into a bucket or come out of it are scaled, from one dtype to the other or
    // within one.
    {"reduce_shards_f32",
     "reduce_shards.c",
     "",
     "",
     {G3RT_SHARDS(Dtype::f32), G3RT_ONE("factor")},
     {G3RT_F32("reduced")}},
    {"reduce_shards_bf16",
     "reduce_shards.c",
     "BF16",
     "",
     {G3RT_SHARDS(Dtype::bf16), G3RT_ONE("factor")},
     {G3RT_BF16("reduced")}},
    {"accumulate_f32",
     "accumulate.c",
     "",
     "accumulate",
     {G3RT_F32("main_grad"), G3RT_F32("grad"), G3RT_ONE("factor")},
     {G3RT_F32("main_grad")}},
    {"accumulate_bf16",
     "accumulate.c",
     "BF16",
     "accumulate",
     {G3RT_F32("main_grad"), G3RT_BF16("grad"), G3RT_ONE("factor")},
     {G3RT_F32("main_grad")}},
    {"scale_f32_to_bf16", "scale.c", "F32_TO_BF16", "cast", {G3RT_F32("x"), G3RT_ONE("factor")}, {G3RT_BF16("y")}},
    {"scale_bf16_to_f32", "scale.c", "BF16_TO_F32", "cast", {G3RT_BF16("x"), G3RT_ONE("factor")}, {G3RT_F32("y")}},

    // Storage.
    {"cast_f32_to_bf16", "cast.c", "F32_TO_BF16", "bf16", {G3RT_F32("x")}, {G3RT_BF16("y")}},
    {"cast_f32_to_bf16_stochastic",
     "cast.c",
     "F32_TO_BF16 STOCHASTIC",
     "bf16_stochastic",
     {G3RT_F32("x"), G3RT_KEYS},
     {G3RT_BF16("y")}},
    {"cast_bf16_to_f32", "cast.c", "BF16_TO_F32", "bf16", {G3RT_BF16("x")}, {G3RT_F32("y")}},
    {"quantise_int8_block",
     "quantise.c",
     "",
     "int8_block",
     {G3RT_F32("x"), G3RT_KEYS},
     {{"codes", Dtype::i8, Access::elements}, G3RT_LARGEST, G3RT_CODES_PER_OCTAVE}},
    {"quantise_int8_block_positive",
     "quantise.c",
     "POSITIVE",
     "int8_block_positive",
     {G3RT_F32("x"), G3RT_KEYS},
     {{"codes", Dtype::u8, Access::elements}, G3RT_LARGEST, G3RT_CODES_PER_OCTAVE}},
    {"dequantise_int8_block",
     "dequantise.c",
     "",
     "int8_block",
     {{"codes", Dtype::i8, Access::elements}, G3RT_LARGEST, G3RT_CODES_PER_OCTAVE},
     {G3RT_F32("x")}},
    {"dequantise_int8_block_positive",
     "dequantise.c",
     "POSITIVE",
     "int8_block_positive",
     {{"codes", Dtype::u8, Access::elements}, G3RT_LARGEST, G3RT_CODES_PER_OCTAVE},
     {G3RT_F32("x")}},
};

#undef G3RT_F32
#undef G3RT_BF16
#undef G3RT_ANY_NUMBER
#undef G3RT_ONE
#undef G3RT_SCALARS
#undef G3RT_PARTIAL
#undef G3RT_KEYS
#undef G3RT_LARGEST
#undef G3RT_CODES_PER_OCTAVE
#undef G3RT_SHARDS
#undef G3RT_STATES
#undef G3RT_STEP
#undef G3RT_STATELESS_STEP

}  // namespace gaudi3_rt::tpc
