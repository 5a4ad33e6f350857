// All of TPC-C that a kernel sees without including anything. Where an instruction is:
//   types.h       vectors, predicates, pairs, coordinates; operators, casts, as_float64 and others
//   switches.h    SW_..., e_..., MkRMW, MkWr, MkWrA
//   arithmetic.h  add sub mul mac madd, x2, mac_acc32, mul_round
//   bits.h        and or xor not shl shr ash popcnt find_first brev
//   compare.h     cmp sel sel2 max min abs
//   move.h        mov mov_dual_group mov_group shuffle pack unpack, lane numbers, predicates
//   convert.h     v_convert_..., s_convert_...; what a lane becomes is in convert_lanes.h
//   convert_wrappers.h  convert_float128_to_bfloat128 and others
//   fp_parts.h    extract_exp form_fp_num nearbyint fclass calc_fp_special
//   reduce.h      reduce_add and others
//   special.h     exp log sqrt reciprocal tanh and others
//   memory.h      loads and stores, gen_addr; rmw.h  read-modify-write; coordinates.h  get_index_space_..., i_i32_...
//   control.h     descriptors, registers, random numbers, local memory by address, caches; print.h  printf
#pragma once
#include "arithmetic.h"
#include "bits.h"
#include "compare.h"
#include "control.h"
#include "convert.h"
#include "convert_wrappers.h"
#include "coordinates.h"
#include "entry.h"
#include "fp_parts.h"
#include "memory.h"
#include "move.h"
#include "print.h"
#include "reduce.h"
#include "rmw.h"
#include "special.h"

// Address spaces are where a variable is; on a CPU that is one place. A thread has a copy of the library, so a local
// variable needs no more.
#define __global
#define __global__
#define __local
#define __local__
