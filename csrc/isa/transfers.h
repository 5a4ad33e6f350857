// From one tensor to another, tile by tile: casts, accumulation, and what is sent. Included by body.h inside its
// namespace.

// Where the floats of a tile are put together that write() then stores: in place for float.
float* tile_of(const Operand& operand, std::int64_t begin, float* buffer) {
  return operand.codec == Codec::f32 ? static_cast<float*>(operand.data) + begin : buffer;
}

template <class Transfer>
void transfer_chunk(float factor, const Operand& from, const Operand& into, std::int64_t begin, std::int64_t n) {
  const Transfer transfer;
  alignas(64) float buffers[2][kTile];
  const std::int64_t end = begin + n;
  for_each_tile(begin, n, [&](std::int64_t first, std::int64_t length) {
    const float* const x = read(from, first, length, buffers[0]);
    float* const y = Transfer::kReadsInto ? read(into, first, length, buffers[1]) : tile_of(into, first, buffers[1]);
    if (first + length < end) prefetch(from, first + length);
#pragma omp simd
    for (std::int64_t i = 0; i < length; ++i) y[i] = transfer.apply(factor, x[i], Transfer::kReadsInto ? y[i] : 0.0f);
    write(into, first, length, y, {});
  });
}

// The place on the wire of element `begin`, where a block begins.
template <class Wire>
constexpr std::int64_t wire_offset(std::int64_t begin) {
  return begin * Wire::kBytes + begin / kBlock * Wire::kHeaderBytes;
}

template <class Wire>
void compress_chunk(float factor, const Operand& x, float* residual, char* wire, std::int64_t begin, std::int64_t n) {
  alignas(64) float buffers[3][kTile];
  const std::int64_t end = begin + n;
  for_each_tile(begin, n, [&](std::int64_t first, std::int64_t length) {
    const float* const in = read(x, first, length, buffers[0]);
    float* const value = buffers[1];
    float* const sent = buffers[2];
    float* const rest = residual == nullptr ? nullptr : residual + first;
    if (first + length < end) prefetch(x, first + length);
    if (rest == nullptr) {
#pragma omp simd
      for (std::int64_t i = 0; i < length; ++i) value[i] = factor * in[i];
    } else {
#pragma omp simd
      for (std::int64_t i = 0; i < length; ++i) value[i] = factor * in[i] + rest[i];
    }
    Wire::compress(value, length, wire + wire_offset<Wire>(first));
    if (rest == nullptr) return;
    Wire::decompress(wire + wire_offset<Wire>(first), length, sent);
#pragma omp simd
    for (std::int64_t i = 0; i < length; ++i) {
      const float lost = value[i] - sent[i];
      rest[i] = lost - lost == 0 ? lost : 0.0f;  // what is not finite is reported once, not at every step from then on
    }
  });
}

template <class Wire>
void decompress_chunk(float factor, const char* wire, const Operand& x, std::int64_t begin, std::int64_t n) {
  alignas(64) float buffer[kTile];
  for_each_tile(begin, n, [&](std::int64_t first, std::int64_t length) {
    float* const out = tile_of(x, first, buffer);
    Wire::decompress(wire + wire_offset<Wire>(first), length, out);
#pragma omp simd
    for (std::int64_t i = 0; i < length; ++i) out[i] = factor * out[i];
    write(x, first, length, out, {});
  });
}
