// Adagrad (Duchi, Hazan and Singer, JMLR 12, 2011) with L2 penalty and a falling step size: torch.optim.Adagrad's
// update.
//   g = g + wd p        s = s + g^2        p = p - lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)
#pragma once

struct Adagrad {
  static constexpr const char* kHyper[] = {"lr", "lr_decay", "weight_decay", "eps"};
  static constexpr const char* kState[] = {"sum"};
  static constexpr int kStates = 1;

  float step_size, weight_decay, eps;

  Adagrad(const double* hyper, double t)
      : step_size(static_cast<float>(hyper[0] / (1 + (t - 1) * hyper[1]))),
        weight_decay(static_cast<float>(hyper[2])),
        eps(static_cast<float>(hyper[3])) {}

  // The constants of a step, for machines that read them from a tensor.
  template <class Visit>
  void visit(const Visit& visit) const {
    visit(step_size, weight_decay, eps);
  }

  static void reference(const double* hyper, double t, double& p, double g, double (&s)[kStates]) {
    g = g + hyper[2] * p;
    s[0] = s[0] + g * g;
    p = p - hyper[0] / (1 + (t - 1) * hyper[1]) * g / (sqrt(s[0]) + hyper[3]);
  }

  void step(float& p, float g, float (&s)[kStates]) const {
    g = fma(weight_decay, p, g);
    s[0] = fma(g, g, s[0]);
    p = fma(-step_size, g / (sqrt(s[0]) + eps), p);
  }
};
