/* How a TPC takes a square root and a quotient with the bits of IEEE 754: integer seeds, polynomials in fused
   multiply-adds, one residual. No lookup table, so the results depend on nothing that is not written here.

   Denormal inputs count as zero and denormal results become zero, as in all arithmetic of a TPC. Every other result is
   the correctly rounded one. The seeds and constants were searched for until no counterexample was left:
   tests/tpc/test_roots.py goes through all mantissas of the root, and through all quotients that lie so close to the
   middle of two floats that the error of this method could matter. */
#ifndef GAUDI3_RT_TPC_ROOTS_H
#define GAUDI3_RT_TPC_ROOTS_H

#define G3RT_FLT_MAX 0x1.fffffep127f
#define G3RT_FLT_MIN 0x1p-126f
#define G3RT_NAN_BITS 0x7fffffff

/* The square root; NaN below zero. */
static inline float64 g3rt_sqrt(float64 x) {
  /* y = 3.93 / sqrt(x) within 6.5e-4: half the exponent by a shift, and a step towards the root. */
  float64 y = as_float64(v_u32_sub_b(0x5f5ea080u, v_u32_shr_b(as_uint64(x), 1)));
  float64 c = 4.71140003f;
  c = v_f32_mac_b(v_f32_mul_b(x, y), y, c, SW_NEG);
  y = v_f32_mul_b(y, c);

  /* y = 1 / sqrt(x) within a rounding or two: of the power series of 1 / sqrt(k - c) what is above half an ulp. */
  c = 15.4671679f;
  c = v_f32_mac_b(v_f32_mul_b(x, y), y, c, SW_NEG);
  float64 series = 0.00821966864f;
  series = v_f32_mac_b(c, 0.000398569682f, series);
  float64 sum = 0.254269689f;
  sum = v_f32_mac_b(series, c, sum);
  y = v_f32_mul_b(y, sum);

  /* root = x y, with two residuals: what its rounding took away, and what y lacks. Neither can underflow, as x - root^2
     would for a small x. */
  float64 root = v_f32_mul_b(x, y);
  float64 residual = v_f32_mac_b(x, y, root, SW_NEG);
  float64 excess = -1.0f;
  excess = v_f32_mac_b(root, y, excess);
  residual = v_f32_mac_b(root, excess, residual);
  root = v_f32_mac_b(residual, 0.5f, root, SW_NEG);

  root = v_f32_sel_grt_f32_b(x, G3RT_FLT_MAX, x, root);
  return as_float64(v_i32_sel_leq_f32_b(x, -G3RT_FLT_MIN, G3RT_NAN_BITS, as_int64(root)));
}

/* a / b for b that is not negative: up to 2^125, or infinite, or NaN. */
static inline float64 g3rt_divide(float64 a, float64 b) {
  /* y = 1 / b within 2.2e-3: the exponent by a subtraction, and a step towards the reciprocal. */
  float64 y = as_float64(v_u32_sub_b(0x7ef55800u, as_uint64(b)));
  float64 c = 2.00176001f;
  c = v_f32_mac_b(b, y, c, SW_NEG);
  y = v_f32_mul_b(y, c);

  /* y = 1 / b within little more than half an ulp: e + e^2 of the geometric series. */
  float64 error = 1.0f;
  error = v_f32_mac_b(b, y, error, SW_NEG);
  float64 series = error;
  series = v_f32_mac_b(error, error, series);
  float64 reciprocal = y;
  reciprocal = v_f32_mac_b(y, series, reciprocal);
  reciprocal = v_f32_sel_grt_f32_b(b, 0x1p125f, 0.0f, reciprocal);

  /* The residual of a small numerator would underflow. */
  const bool64 small = v_f32_cmp_less_b(v_f32_abs_b(a), 0x1p-64f);
  a = v_f32_mul_vb(a, 0x1p64f, 0, a, small);
  const float64 quotient = v_f32_mul_b(a, reciprocal);
  float64 residual = a;
  residual = v_f32_mac_b(b, quotient, residual, SW_NEG);
  float64 result = quotient;
  result = v_f32_mac_b(residual, reciprocal, result);

  /* The residual of an infinite quotient is not a number. */
  result = v_f32_sel_eq_f32_b(result, result, result, quotient);
  return v_f32_mul_vb(result, 0x1p-64f, 0, result, small);
}

#endif
