// float: used in place by the kernels; load and store are here for code that is generic over codecs.
struct F32 {
  using Stored = float;
  static float load(float x) { return x; }
  static float store(float x) { return x; }
};
