// Lion (arXiv:2302.06675, Algorithm 2): steps of one size, whose sign is that of an interpolated gradient.
//   c = b1 m + (1 - b1) g        p = p - lr (sign(c) + wd p)        m = b2 m + (1 - b2) g
// sign(0) is 0 and sign(NaN) is NaN, so that a gradient that is not a number shows in the parameter at once.
#pragma once

struct Lion {
  static constexpr const char* kHyper[] = {"lr", "beta1", "beta2", "weight_decay"};
  static constexpr const char* kState[] = {"exp_avg"};
  static constexpr int kStates = 1;

  float beta1, one_minus_beta1, beta2, one_minus_beta2, lr, decay;

  Lion(const double* hyper, double)
      : beta1(static_cast<float>(hyper[1])),
        one_minus_beta1(static_cast<float>(1 - hyper[1])),
        beta2(static_cast<float>(hyper[2])),
        one_minus_beta2(static_cast<float>(1 - hyper[2])),
        lr(static_cast<float>(hyper[0])),
        decay(static_cast<float>(hyper[0] * hyper[3])) {}

  // The constants of a step, for machines that read them from a tensor.
  template <class Visit>
  void visit(const Visit& visit) const {
    visit(beta1, one_minus_beta1, beta2, one_minus_beta2, lr, decay);
  }

  static void reference(const double* hyper, double, double& p, double g, double (&s)[kStates]) {
    const double interpolated = hyper[1] * s[0] + (1 - hyper[1]) * g;
    p = p - hyper[0] * (sign(interpolated) + hyper[3] * p);
    s[0] = hyper[2] * s[0] + (1 - hyper[2]) * g;
  }

  void step(float& p, float g, float (&s)[kStates]) const {
    p = p - fma(decay, p, lr * sign(fma(beta1, s[0], one_minus_beta1 * g)));
    s[0] = fma(beta2, s[0], one_minus_beta2 * g);
  }

 private:
  template <class T>
  static T sign(T x) {
    return x > 0 ? T(1) : x < 0 ? T(-1) : x;
  }
};
