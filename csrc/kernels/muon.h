// The elementwise parts of Muon (kellerjordan.github.io/posts/muon), before and after a matrix is orthogonalised, with
// the numbers of torch.optim.Muon.
//
// MuonMomentum: what is to be orthogonalised, u, takes the place of the parameter and is written, never read.
//   m = mu m + (1 - mu) g        u = m, with Nesterov's momentum mu m + (1 - mu) g
// MuonApply: o, the orthogonalised u, takes the place of the gradient; the ratio adjusts lr to the matrix's shape.
//   p = p - lr wd p - lr ratio o
#pragma once

template <bool kNesterov>
struct MuonMomentum {
  static constexpr const char* kHyper[] = {"momentum"};
  static constexpr const char* kState[] = {"momentum_buffer"};
  static constexpr int kStates = 1;

  float momentum, one_minus_momentum;

  MuonMomentum(const double* hyper, double) {
    momentum = static_cast<float>(hyper[0]);
    one_minus_momentum = static_cast<float>(1 - hyper[0]);
  }

  // The constants of a step, for machines that read them from a tensor.
  template <class Visit>
  void visit(const Visit& visit) const {
    visit(momentum, one_minus_momentum);
  }

  static void reference(const double* hyper, double, double& u, double g, double* s) {
    const double mu = hyper[0];
    s[0] = mu * s[0] + (1 - mu) * g;
    u = kNesterov ? mu * s[0] + (1 - mu) * g : s[0];
  }

  void step(float& u, float g, float* s) const {
    const float weighted = one_minus_momentum * g;
    s[0] = fma(momentum, s[0], weighted);
    u = kNesterov ? fma(momentum, s[0], weighted) : s[0];
  }
};

struct MuonApply {
  static constexpr const char* kHyper[] = {"lr", "weight_decay", "lr_ratio"};
  static constexpr const char* kState[] = {nullptr};
  static constexpr int kStates = 0;

  float decay, step_size;

  MuonApply(const double* hyper, double) {
    const auto [lr, weight_decay, ratio] = unpack(hyper);
    decay = static_cast<float>(lr * weight_decay);
    step_size = static_cast<float>(lr * ratio);
  }

  // The constants of a step, for machines that read them from a tensor.
  template <class Visit>
  void visit(const Visit& visit) const {
    visit(decay, step_size);
  }

  static void reference(const double* hyper, double, double& p, double o, double*) {
    const auto [lr, weight_decay, ratio] = unpack(hyper);
    p = p - lr * weight_decay * p - lr * ratio * o;
  }

  // One rounding at the size of p: see adamw.h.
  void step(float& p, float o, float*) const { p = p - fma(decay, p, step_size * o); }

 private:
  struct Hyper {
    double lr, weight_decay, ratio;
  };
  static Hyper unpack(const double* h) { return {h[0], h[1], h[2]}; }
};
