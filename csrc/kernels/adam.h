// Adam (arXiv:1412.6980, Algorithm 1) with the L2 penalty of torch.optim.Adam: AdamW's update without its decay, of the
// gradient of the penalised loss,
//   g = g + wd p
#pragma once
#include "adamw.h"

template <bool kAmsgrad>
struct Adam : AdamW<kAmsgrad> {
  using AdamW<kAmsgrad>::kStates;

  float weight_decay;

  Adam(const double* hyper, double t)
      : AdamW<kAmsgrad>(Undecayed(hyper).hyper, t), weight_decay(static_cast<float>(hyper[4])) {}

  // The constants of a step, for machines that read them from a tensor.
  template <class Visit>
  void visit(const Visit& visit) const {
    AdamW<kAmsgrad>::visit(visit);
    visit(weight_decay);
  }

  static void reference(const double* hyper, double t, double& p, double g, double (&s)[kStates]) {
    AdamW<kAmsgrad>::reference(Undecayed(hyper).hyper, t, p, g + hyper[4] * p, s);
  }

  void step(float& p, float g, float (&s)[kStates]) const { AdamW<kAmsgrad>::step(p, fma(weight_decay, p, g), s); }

 private:
  struct Undecayed {
    explicit Undecayed(const double* h) : hyper{h[0], h[1], h[2], h[3], 0} {}
    double hyper[5];
  };
};
