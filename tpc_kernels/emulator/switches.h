// The switches of all instructions, by what they are for. The values are part of the interface: kernels write them as
// numbers, too. Different instructions give one bit different meanings.
#pragma once

enum {
  // How a result is rounded: a three-bit field.
  SW_RHNE = 0 << 16,    // to nearest, ties to even
  SW_RZ = 1 << 16,      // towards zero
  SW_RU = 2 << 16,      // up
  SW_RD = 3 << 16,      // down
  SW_SR = 4 << 16,      // stochastically
  SW_CSR = 5 << 16,     // as the configuration register says
  SW_RHAZ = 6 << 16,    // to nearest, ties away from zero
  SW_SR_RNE = 7 << 16,  // stochastically; denormal results to nearest
  SW_CLIP_FP = 1 << 20,
  SW_CLIP_X2 = 1 << 19,
  SW_GROUP_RND32 = 3,
  SW_NO_ROUND = 0,

  // Lanes of conversions: in order, or (without it) interleaved.
  SW_LINEAR = 1 << 24,
  SW_LANE_0 = 0,
  SW_LANE_1 = 1,
  SW_LANE_2 = 2,
  SW_LANE_3 = 3,
  SW_NUM_LANES_SRCB = 1 << 6,
  SW_ALL_LANES_SRCB = 0,
  SW_SINGLE_LANE_SRCB = 1 << 6,
  SW_LOWER_LANES = 2 << 6,
  SW_UPPER_LANES = 3 << 6,

  // Arithmetic.
  SW_SAT = 1 << 0,
  SW_NO_SAT = 1 << 0,
  SW_NEG = 1 << 1,
  SW_NO_NEG = 0,
  SW_NEG_ZP = 1 << 6,
  SW_RHU = 1 << 1,
  SW_CARRY = 1 << 1,
  SW_NO_CARRY_GEN = 1 << 2,
  SW_NO_BORROW_GEN = 1 << 2,
  SW_BORROW = 1 << 3,
  SW_LOWER32 = 0,
  SW_UPPER32 = 1 << 2,
  SW_KEEP_RS = 2,
  SW_KEEP_RS_FOR_ADD = 3,
  SW_NORMALIZE_AB = 0,
  SW_NORMALIZE_C = 1 << 2,
  SW_X2_UDIV_4STEP = 1 << 6,
  SW_DIV_MODE_DIV = 0,
  SW_DIV_MODE_MOD = 1,
  SW_DIV_MODE_BOTH = 2,

  // Comparison, minimum and maximum, bits.
  SW_MASK_EQ_ZERO = 1 << 0,
  SW_SUP_NAN = 1 << 2,
  SW_ANDN = 1 << 1,
  SW_COUNT_ZEROS = 0,
  SW_COUNT_ONES = 1,
  SW_FIND_ZERO = 0,
  SW_FIND_ONE = 1,
  SW_LSB = 0,
  SW_MSB = 1 << 1,

  // Parts of floating-point numbers.
  SW_BIASED = 1 << 0,
  SW_SUBTRACT_BIAS = 1 << 0,
  SW_PRE_LOG = 1 << 1,
  SW_ADD_BIAS = 1 << 8,
  SW_FORCE_SIGN0 = 1 << 9,
  SW_FORCE_SIGN1 = 1 << 10,
  SW_EXP_IS_NUM = 1 << 11,
  SW_SIGN_LSB = 1 << 12,
  SW_PRE_SQRT_RSQRT = (1 << 13) | SW_FORCE_SIGN0,
  SW_POST_SQRT = (2 << 13) | SW_FORCE_SIGN0,
  SW_POST_RSQRT = (3 << 13) | SW_FORCE_SIGN0,
  SW_POST_RECIP = (4 << 13) | SW_ADD_BIAS,
  SW_PRE_LOG_FUNC = 5 << 13,

  // Functions of v_f32_calc_fp_special_b.
  SW_RECIP = 0,
  SW_RSQRT = 1,
  SW_SQRT = 2,
  SW_LOG = 3,
  SW_EXP = 4,
  SW_TANH = 5,
  SW_DIV = 6,
  SW_POW = 7,

  // Lookup tables.
  SW_BV32 = 0,
  SW_BV16 = 1,
  SW_BV8_0 = 2,
  SW_BV8_1 = 3,
  SW_UPPER_HALF = 1 << 2,
  SW_LUT_PTR = 1 << 3,
  SW_X2 = 1 << 4,
  SW_SBCD = 1 << 5,
  SW_BV64 = 1 << 4,
  SW_LUT_OPT = 1 << 0,
  SW_LUT_EXP0 = 1 << 1,
  SW_LUT_TANH = 1 << 13,
  SW_LUT_SQRT_RSQRT = 2 << 13,
  SW_LUT_SIN_COS = 3 << 13,
  SW_LUT_LOG = 4 << 13,

  // Groups of lanes.
  SW_WR_LOWER_GROUP = 1 << 12,
  SW_WR_UPPER_GROUP = 1 << 13,
  SW_WR_LOWER_GROUP0 = 1 << 16,
  SW_WR_UPPER_GROUP0 = 1 << 17,
  SW_WR_LOWER_GROUP1 = 1 << 18,
  SW_WR_UPPER_GROUP1 = 1 << 19,
  SW_WR_LOWER_GROUP2 = 1 << 20,
  SW_WR_UPPER_GROUP2 = 1 << 21,
  SW_WR_LOWER_GROUP3 = 1 << 22,
  SW_WR_UPPER_GROUP3 = 1 << 23,
  SW_GROUP0_EN = 1 << 0,
  SW_GROUP1_EN = 1 << 1,
  SW_DUAL_GROUP0_EN = 1 << 2,
  SW_DUAL_GROUP1_EN = 1 << 3,
  SW_DUAL_GROUP2_EN = 1 << 4,
  SW_DUAL_GROUP3_EN = 1 << 5,
  SW_PACK21 = 0,
  SW_PACK41 = 1 << 2,
  SW_UNPACK_EVEN_LANES = 0,
  SW_UNPACK_ODD_LANES = 1 << 2,
  SW_GROUP_0 = 0,
  SW_GROUP_1 = 1 << 8,
  SW_GROUP_SOURCE = 1 << 8,
  SW_STRIDE_2 = 0,
  SW_STRIDE_4 = 1 << 9,
  SW_ELEMENT_STRIDE = 1 << 9,
  SW_GROUP_HALF_0 = 0,
  SW_GROUP_HALF_1 = 1 << 10,
  SW_GROUP_HALF = 1 << 10,
  SW_UNPACK_LANE_0 = 0,
  SW_UNPACK_LANE_1 = 1 << 11,
  SW_UNPACK_LANE_2 = 2 << 11,
  SW_UNPACK_LANE_3 = 3 << 11,

  // Loads and stores.
  SW_UNPACK = 1 << 4,
  SW_UNPCK_16_TO_32 = 0,
  SW_UNPCK_8_TO_16 = 1 << 1,
  SW_UNPCK_8_TO_32 = 2 << 1,
  SW_UNPCK_4_TO_8 = 3 << 1,
  SW_PACK = 1 << 2,
  SW_PACK_DT = 3 << 4,
  SW_PCK_32_TO_16 = 0,
  SW_PCK_16_TO_8 = 1 << 4,
  SW_PCK_32_TO_8 = 2 << 4,
  SW_PCK_8_TO_4 = 3 << 4,
  SW_L0CS = 1 << 5,
  SW_L0CD = 1 << 5,
  SW_EV_HINT = 1 << 6,
  SW_PD = 1 << 15,
  SW_DIRECT = 1 << 6,
  SW_LD_G_PARTIAL = 1 << 7,
  SW_ST_TNSR_S_BV64 = 1 << 2,
  SW_SLM = 0,
  SW_MMIO = 1 << 0,
  SW_LOCK = 1 << 1,
  SW_UNLOCK = 1 << 1,
  SW_AUTO_INC_1_V = 1,
  SW_AUTO_INC_2_V = 2,
  SW_AUTO_INC_4_V = 3,
  SW_INC_1 = 1,
  SW_INC_2 = 2,
  SW_INC_4 = 3,
  SW_INC_8 = 4,
  SW_DT_INT8 = 0,
  SW_DT_INT16 = 1,
  SW_DT_INT32 = 2,
  SW_DT_UINT8 = 3,
  SW_DT_UINT16 = 4,
  SW_DT_UINT32 = 5,
  SW_DT_BF16 = 6,
  SW_DT_FP32 = 7,
  SW_DT_FP16 = 8,
  SW_DT_FP8_152 = 9,
  SW_DT_FP8_143 = 10,
  SW_DT_INT64 = 11,
  SW_DT_OVERRIDE = 1 << 4,
  SW_PAD = 1 << 6,
  SW_NO_INV = 1 << 0,

  // Read-modify-write stores.
  RMW_DT_INT8 = 0,
  RMW_DT_INT16 = 1,
  RMW_DT_INT32 = 2,
  RMW_DT_UINT8 = 3,
  RMW_DT_UINT16 = 4,
  RMW_DT_UINT32 = 5,
  RMW_DT_BF16 = 6,
  RMW_DT_FP32 = 7,
  RMW_DT_FP16 = 8,
  RMW_DT_FP8_152 = 9,
  RMW_OP_ADD = 0 << 4,
  RMW_OP_SUB = 1 << 4,
  RMW_OP_MIN = 2 << 4,
  RMW_OP_MAX = 3 << 4,
  RMW_OP_MAX_0_ADD = 4 << 4,
  RMW_TNSR_DT = 1 << 7,
  RMW_SET = 1 << 8,

  // Caches, prefetch, semaphores, random numbers.
  SW_SB = 1 << 0,
  SW_D = 1 << 1,
  SW_LU = 1 << 2,
  SW_RST_LU = 1 << 3,
  SW_RST_D_PREF = 1 << 4,
  SW_INV_LOG = 1 << 6,
  SW_L2 = 1 << 3,
  SW_CNT_ONLY = 1 << 0,
  SW_FLUSH = 1 << 4,
  SW_INC = 0,
  SW_DEC = 1 << 8,
  SW_SPU = 0,
  SW_VPU = 2 << 8,
  SW_READ_ONLY = 1,

  // Data types of the older instructions.
  SW_TYPE = 15,
  SW_FP32 = 0,
  SW_BF16 = 1,
  SW_INT32 = 2,
  SW_UINT32 = 3,
  SW_INT8 = 4,
  SW_UINT8 = 5,
  SW_BOOL = 6,
  SW_INT16 = 7,
  SW_UINT16 = 8,
  SW_INT4 = 9,
  SW_UINT4 = 10,
  SW_FP16 = 11,
  SW_FP8_152 = 12,
  SW_FP8_143 = 13,
  SW_INT64 = 14,
};

// The names that the special-function header gives them.
enum e_no_negation_t { e_no_negation = 0, e_with_negation = 1 };
enum e_saturation_t { e_no_saturation = 0, e_saturation = 1 };
enum e_round_mode_t { e_round_half_ne = 0, e_round_zero = 1, e_round_up = 2, e_round_down = 3, e_round_stochastic = 4 };
enum e_calc_fp_special {
  e_fp_recip = 0,
  e_fp_rsqrt = 1,
  e_fp_sqrt = 2,
  e_fp_log = 3,
  e_fp_exp = 4,
  e_fp_tanh = 5,
  e_fp_div = 6,
  e_fp_pow = 7,
};
enum e_rmw_datatype {
  e_rmw_int8 = 0,
  e_rmw_int16 = 1,
  e_rmw_int32 = 2,
  e_rmw_uint8 = 3,
  e_rmw_uint16 = 4,
  e_rmw_uint32 = 5,
  e_rmw_bf16 = 6,
  e_rmw_fp32 = 7,
};
enum e_rmw_op { e_rmw_add = 0, e_rmw_sub = 1, e_rmw_min = 2, e_rmw_max = 3 };
enum e_rmw_set { e_rmw_plain = 0, e_rmw_atomic = 1 };
enum e_tnsr_dt_location { e_tnsr_dt_srf = 0, e_tnsr_dt_desc = 1 };
enum e_group_source { e_group_0 = 0, e_group_1 = 1 };
enum e_element_stride { e_every_second_element = 0, e_every_forth_element = 1 };
enum e_group_half { e_lower_half_group = 0, e_higher_half_group = 1 };

// Which groups of 32 bytes a move writes: two bits a dual group, and the two groups of one.
#define MkWrA(w0, w1, w2, w3) (((w0) << 16) | ((w1) << 18) | ((w2) << 20) | ((w3) << 22))
#define MkWr(l, u) (((l) ? SW_WR_LOWER_GROUP : 0) | ((u) ? SW_WR_UPPER_GROUP : 0))
// The word of a read-modify-write store, as on Gaudi 2 and later.
#define MkRMW(dt, op, rmw, dl) ((dt) | ((op) << 4) | ((rmw) << 8) | ((dl) << 7))
