// AdamW: Adam with decoupled weight decay (arXiv:1711.05101, Algorithm 2), the update of torch.optim.AdamW.
//   m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2        c_i = 1 - b_i^t
//   p = p - lr wd p - (lr / c1) m / (sqrt(v / c2) + eps)
// With AMSGrad (arXiv:1904.09237) the running maximum of v takes the place of v in the last line.
#pragma once

template <bool kAmsgrad>
struct AdamW {
  static constexpr const char* kHyper[] = {"lr", "beta1", "beta2", "eps", "weight_decay"};
  static constexpr const char* kState[] = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"};
  static constexpr int kStates = kAmsgrad ? 3 : 2;

  // Everything that depends only on the step, rounded once from double: 1 - beta2 formed in float would already be
  // wrong by 1e-5.
  float beta1, one_minus_beta1, beta2, one_minus_beta2, eps, decay, step_size, rsqrt_c2;

  AdamW(const double* hyper, double t) {
    const auto [lr, b1, b2, epsilon, weight_decay] = unpack(hyper);
    beta1 = static_cast<float>(b1);
    one_minus_beta1 = static_cast<float>(1 - b1);
    beta2 = static_cast<float>(b2);
    one_minus_beta2 = static_cast<float>(1 - b2);
    eps = static_cast<float>(epsilon);
    decay = static_cast<float>(lr * weight_decay);
    step_size = static_cast<float>(lr / (1 - __builtin_pow(b1, t)));
    rsqrt_c2 = static_cast<float>(1 / sqrt(1 - __builtin_pow(b2, t)));
  }

  // The constants of a step, for machines that read them from a tensor.
  template <class Visit>
  void visit(const Visit& visit) const {
    visit(beta1, one_minus_beta1, beta2, one_minus_beta2, eps, decay, step_size, rsqrt_c2);
  }

  // The definition: double, one element, no tricks.
  static void reference(const double* hyper, double t, double& p, double g, double (&s)[kStates]) {
    const auto [lr, b1, b2, epsilon, weight_decay] = unpack(hyper);
    const double c1 = 1 - __builtin_pow(b1, t);
    const double c2 = 1 - __builtin_pow(b2, t);
    s[0] = b1 * s[0] + (1 - b1) * g;
    s[1] = b2 * s[1] + (1 - b2) * g * g;
    double second = s[1];
    if constexpr (kAmsgrad) second = s[2] = nan_max(s[2], s[1]);
    p = p - lr * weight_decay * p - lr / c1 * s[0] / (sqrt(second / c2) + epsilon);
  }

  // The same in float. Decay and update are added before they meet p: one rounding at the size of p, so that a decay
  // below half an ulp of 1 is not rounded away as it is in p * (1 - lr * wd).
  void step(float& p, float g, float (&s)[kStates]) const {
    s[0] = fma(beta1, s[0], one_minus_beta1 * g);
    s[1] = fma(beta2, s[1], one_minus_beta2 * (g * g));
    float second = s[1];
    if constexpr (kAmsgrad) second = s[2] = nan_max(s[2], s[1]);
    p = p - fma(decay, p, step_size * (s[0] / fma(sqrt(second), rsqrt_c2, eps)));
  }

 private:
  struct Hyper {
    double lr, beta1, beta2, eps, weight_decay;
  };
  static Hyper unpack(const double* h) { return {h[0], h[1], h[2], h[3], h[4]}; }
};
