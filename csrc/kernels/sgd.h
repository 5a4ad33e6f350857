// Stochastic gradient descent with momentum and L2 penalty, the update of torch.optim.SGD.
//   g = g + wd p
//   b = mu b + (1 - dampening) g, undampened in the first step, where b is 0: torch starts with b = g
//   p = p - lr b, with Nesterov's momentum p - lr (g + mu b), without momentum p - lr g
#pragma once

enum class Momentum { none, heavy_ball, nesterov };

template <Momentum kMomentum>
struct SGD {
  static constexpr const char* kHyper[] = {"lr", "momentum", "dampening", "weight_decay"};
  static constexpr const char* kState[] = {"momentum_buffer"};
  static constexpr int kStates = kMomentum == Momentum::none ? 0 : 1;

  float lr, momentum, undampened, weight_decay;

  SGD(const double* hyper, double t)
      : lr(static_cast<float>(hyper[0])),
        momentum(static_cast<float>(hyper[1])),
        undampened(static_cast<float>(t == 1 ? 1 : 1 - hyper[2])),
        weight_decay(static_cast<float>(hyper[3])) {}

  // The constants of a step, for machines that read them from a tensor.
  template <class Visit>
  void visit(const Visit& visit) const {
    visit(lr, momentum, undampened, weight_decay);
  }

  static void reference(const double* hyper, double t, double& p, double g, [[maybe_unused]] double* s) {
    g = g + hyper[3] * p;
    double direction = g;
    if constexpr (kMomentum != Momentum::none) {
      direction = s[0] = hyper[1] * s[0] + (t == 1 ? 1 : 1 - hyper[2]) * g;
    }
    if constexpr (kMomentum == Momentum::nesterov) direction = g + hyper[1] * s[0];
    p = p - hyper[0] * direction;
  }

  void step(float& p, float g, [[maybe_unused]] float* s) const {
    g = fma(weight_decay, p, g);
    float direction = g;
    if constexpr (kMomentum != Momentum::none) direction = s[0] = fma(momentum, s[0], undampened * g);
    if constexpr (kMomentum == Momentum::nesterov) direction = fma(momentum, s[0], g);
    p = fma(-lr, direction, p);
  }
};
