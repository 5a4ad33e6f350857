// LARS: SGD with momentum whose gradient is scaled per tensor to the size of the parameter (arXiv:1708.03888,
// Algorithm 1; the learning rate is applied outside of the momentum, as in torch.optim.SGD).
//   d = r (g + wd p)       r = c |p| / (|g| + wd |p| + eps) where neither norm is zero, else 1
//   b = mu b + (1 - damp) d, but b = d in the first step        p = p - lr b, or p - lr (d + mu b) with Nesterov
// Without weight decay r is 1 as well, unless always_adapt; with trust_clip it is min(r / lr, 1).

template <bool kNesterov>
struct Lars {
  static constexpr const char* kHyper[] = {"lr",          "momentum", "dampening",  "weight_decay",
                                           "trust_coeff", "eps",      "trust_clip", "always_adapt"};
  static constexpr const char* kState[] = {"momentum_buffer"};
  static constexpr int kStates = 1;

  // Two passes: the first measures p and g, the second is the step.
  static constexpr bool kFirstWritesStates = false;
  static constexpr bool kSecondReadsGrad = true;
  static constexpr bool kSecondWritesStates = true;

  double rate, trust_coeff, decay, eps_norm;
  float lr, momentum, one_minus_dampening, weight_decay, ratio;
  bool clips, adapts;

  Lars(const double* hyper, double t) {
    const Hyper h(hyper, t);
    rate = h.lr;
    trust_coeff = h.trust_coeff;
    decay = h.weight_decay;
    eps_norm = h.eps;
    lr = static_cast<float>(h.lr);
    momentum = static_cast<float>(h.momentum);
    one_minus_dampening = static_cast<float>(h.one_minus_dampening);
    weight_decay = static_cast<float>(h.weight_decay);
    ratio = 1;
    clips = h.clips;
    adapts = h.adapts;
  }

  // The constants of a step, for machines that read them from a tensor.
  template <class Visit>
  void visit(const Visit& visit) const {
    visit(rate, trust_coeff, decay, eps_norm, lr, momentum, one_minus_dampening, weight_decay, ratio, clips, adapts);
  }

  // The definition, for a whole tensor.
  static void reference(const double* hyper, double t, double* const* x, std::int64_t n) {
    const Hyper h(hyper, t);
    double sum_p = 0, sum_g = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      sum_p += x[0][i] * x[0][i];
      sum_g += x[1][i] * x[1][i];
    }
    const double r = trust(h.lr, h.trust_coeff, h.weight_decay, h.eps, h.clips, h.adapts, sqrt(sum_p), sqrt(sum_g));
    for (std::int64_t i = 0; i < n; ++i) {
      const double d = r * (x[1][i] + h.weight_decay * x[0][i]);
      x[2][i] = h.momentum * x[2][i] + h.one_minus_dampening * d;
      x[0][i] -= h.lr * (kNesterov ? d + h.momentum * x[2][i] : x[2][i]);
    }
  }

  void first(float, float, float (&)[kStates]) const {}

  // What is measured besides p.
  GAUDI3_RT_EARLY float measured(float, float g, const float (&)[kStates]) const { return g; }

  void set_ratio(double norm_p, double norm_g) {
    ratio = static_cast<float>(trust(rate, trust_coeff, decay, eps_norm, clips, adapts, norm_p, norm_g));
  }

  void second(float& p, float g, float (&s)[kStates]) const {
    const float d = ratio * fma(weight_decay, p, g);
    s[0] = fma(momentum, s[0], one_minus_dampening * d);
    p = fma(-lr, kNesterov ? fma(momentum, s[0], d) : s[0], p);
  }

 private:
  struct Hyper {
    double lr, momentum, one_minus_dampening, weight_decay, trust_coeff, eps;
    bool clips, adapts;

    Hyper(const double* h, double t)
        : lr(h[0]),
          momentum(h[1]),
          one_minus_dampening(t > 1 && h[1] != 0 ? 1 - h[2] : 1),
          weight_decay(h[3]),
          trust_coeff(h[4]),
          eps(h[5]),
          clips(h[6] != 0),
          adapts(h[7] != 0 || h[3] != 0) {}
  };

  static double trust(double lr, double coeff, double decay, double eps, bool clips, bool adapts, double norm_p,
                      double norm_g) {
    if (!adapts) return 1;
    const bool is_zero = norm_p == 0 || norm_g == 0;
    const double r = is_zero ? 1 : coeff * norm_p / (norm_g + decay * norm_p + eps);
    if (!clips) return r;
    return r / lr > 1 ? 1 : r / lr;  // so written that a NaN stays one
  }
};
