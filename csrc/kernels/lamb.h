// LAMB: Adam's direction, scaled per tensor to the size of the parameter (arXiv:1904.00962, Algorithm 2, with the
// options and guards of apex's FusedLAMB).
//   m = b1 m + b3 g        v = b2 v + (1 - b2) g^2        u = (m / c1) / (sqrt(v / c2) + eps) + wd p
//   p = p - lr r u         r = |p| / |u| where neither norm is zero, else 1
// b3 is 1 - b1, or 1 without grad_averaging; c_i = 1 - b_i^t, or 1 without bias_correction. Without weight decay r is 1
// as well, unless always_adapt. With L2 decay (kL2) wd p is added to the gradient instead of to u.

template <bool kL2>
struct Lamb {
  static constexpr const char* kHyper[] = {"lr",           "beta1",           "beta2",          "eps",
                                           "weight_decay", "bias_correction", "grad_averaging", "always_adapt"};
  static constexpr const char* kState[] = {"exp_avg", "exp_avg_sq"};
  static constexpr int kStates = 2;

  // Two passes: the first updates the moments and measures p and u; the second forms u once more, from the moments as
  // they are stored, which costs less than keeping it.
  static constexpr bool kFirstWritesStates = true;
  static constexpr bool kSecondReadsGrad = false;
  static constexpr bool kSecondWritesStates = false;

  float lr, beta1, beta3, beta2, one_minus_beta2, eps, weight_decay, rcp_c1, rsqrt_c2, ratio;
  bool adapts;

  Lamb(const double* hyper, double t) {
    const Hyper h(hyper, t);
    lr = static_cast<float>(h.lr);
    beta1 = static_cast<float>(h.beta1);
    beta3 = static_cast<float>(h.beta3);
    beta2 = static_cast<float>(h.beta2);
    one_minus_beta2 = static_cast<float>(1 - h.beta2);
    eps = static_cast<float>(h.eps);
    weight_decay = static_cast<float>(h.weight_decay);
    rcp_c1 = static_cast<float>(1 / h.c1);
    rsqrt_c2 = static_cast<float>(1 / sqrt(h.c2));
    ratio = 1;
    adapts = h.adapts;
  }

  // The constants of a step, for machines that read them from a tensor.
  template <class Visit>
  void visit(const Visit& visit) const {
    visit(lr, beta1, beta3, beta2, one_minus_beta2, eps, weight_decay, rcp_c1, rsqrt_c2, ratio, adapts);
  }

  // The definition, for a whole tensor.
  static void reference(const double* hyper, double t, double* const* x, std::int64_t n) {
    const Hyper h(hyper, t);
    double sum_p = 0, sum_u = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const double p = x[0][i], g = x[1][i] + (kL2 ? h.weight_decay * p : 0);
      x[2][i] = h.beta1 * x[2][i] + h.beta3 * g;
      x[3][i] = h.beta2 * x[3][i] + (1 - h.beta2) * g * g;
      const double u = h.direction(p, x[2][i], x[3][i]);
      sum_p += p * p;
      sum_u += u * u;
    }
    const double r = h.adapts && sum_p != 0 && sum_u != 0 ? sqrt(sum_p) / sqrt(sum_u) : 1;
    for (std::int64_t i = 0; i < n; ++i) x[0][i] -= h.lr * r * h.direction(x[0][i], x[2][i], x[3][i]);
  }

  void first(float p, float g, float (&s)[kStates]) const {
    if constexpr (kL2) g = fma(weight_decay, p, g);
    s[0] = fma(beta1, s[0], beta3 * g);
    s[1] = fma(beta2, s[1], one_minus_beta2 * (g * g));
  }

  // What is measured besides p.
  GAUDI3_RT_EARLY float measured(float p, float, const float (&s)[kStates]) const { return direction(p, s[0], s[1]); }

  void set_ratio(double norm_p, double norm_u) {
    ratio = adapts && norm_p != 0 && norm_u != 0 ? static_cast<float>(norm_p / norm_u) : 1.0f;
  }

  GAUDI3_RT_EARLY void second(float& p, float, float (&s)[kStates]) const {
    p = fma(-(lr * ratio), direction(p, s[0], s[1]), p);
  }

 private:
  struct Hyper {
    double lr, beta1, beta2, eps, weight_decay, beta3, c1, c2;
    bool adapts;

    Hyper(const double* h, double t)
        : lr(h[0]),
          beta1(h[1]),
          beta2(h[2]),
          eps(h[3]),
          weight_decay(h[4]),
          beta3(h[6] != 0 ? 1 - h[1] : 1),
          c1(h[5] != 0 ? 1 - __builtin_pow(h[1], t) : 1),
          c2(h[5] != 0 ? 1 - __builtin_pow(h[2], t) : 1),
          adapts(h[7] != 0 || h[4] != 0) {}

    double direction(double p, double m, double v) const {
      return m / c1 / (sqrt(v / c2) + eps) + (kL2 ? 0 : weight_decay * p);
    }
  };

  GAUDI3_RT_EARLY float direction(float p, float m, float v) const {
    const float u = rcp_c1 * m / fma(sqrt(v), rsqrt_c2, eps);
    return kL2 ? u : fma(weight_decay, p, u);
  }
};
