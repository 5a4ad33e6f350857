// The nearest number in [-limit, limit], as torch.clamp: infinities become the limit, a NaN stays a NaN.

struct Clamp {
  static constexpr const char* kParameters[] = {"limit"};

  float limit;

  explicit Clamp(const float* parameters) : limit(parameters[0]) {}

  static double reference(const double* parameters, double x) {
    return x > parameters[0] ? parameters[0] : x < -parameters[0] ? -parameters[0] : x;
  }

  // Two selects one after the other are a minimum and a maximum, which every ISA has.
  float apply(float x) const {
    const float below = x > limit ? limit : x;
    return below < -limit ? -limit : below;
  }
};
