// Exponential moving average, as torch.lerp and torch.optim.swa_utils.get_ema_multi_avg_fn form it. What is written in
// the place of the parameter is the average, and what is read in the place of the gradient is the value that it
// follows.
//   a = a + (1 - decay) (x - a)
#pragma once

struct EMA {
  static constexpr const char* kHyper[] = {"decay"};
  static constexpr const char* const* kState = nullptr;
  static constexpr int kStates = 0;

  float one_minus_decay;

  EMA(const double* hyper, double) : one_minus_decay(static_cast<float>(1 - hyper[0])) {}

  // The constants of a step, for machines that read them from a tensor.
  template <class Visit>
  void visit(const Visit& visit) const {
    visit(one_minus_decay);
  }

  static void reference(const double* hyper, double, double& a, double x, const double*) {
    a = a + (1 - hyper[0]) * (x - a);
  }

  void step(float& a, float x, const float*) const { a = fma(one_minus_decay, x - a, a); }
};
