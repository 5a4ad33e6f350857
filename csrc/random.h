// Random bits by counting, not by drawing: a function of seed, step, parameter, operand and element. No state, so the
// bits of an element do not depend on threads, on the way a tensor is cut, or on where a run was resumed.
// Like the formulas, included inside a namespace of the includer.

// A bijection of 64 bits in which every input bit reaches every output bit: the finaliser of SplitMix64
// (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014, variant 13 of Stafford).
inline std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// The key of a tensor in one step.
inline std::uint64_t step_key(std::uint64_t seed, double t, std::uint64_t parameter) {
  return mix(mix(mix(seed) + bit_cast<std::uint64_t>(t)) + parameter);
}

// 32 random bits for an element: two multiplications with xor-shifts (the constants of "lowbias32", found by a search
// for low bias and put into the public domain by C. Wellons), with a second key between them, so that two steps never
// see the same sequence at a shift.
inline std::uint32_t random_bits(std::uint32_t element, std::uint32_t key0, std::uint32_t key1) {
  std::uint32_t x = element ^ key0;
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = ((x ^ (x >> 15)) + key1) * 0x846ca68bu;
  return x ^ (x >> 16);
}

// What an operand gets: 16 bits for each element of a tile, at `shift` of its word.
struct Random {
  const std::uint32_t* words;
  int shift;
};

// An element has two words; states take the halves of the first, a third state and the parameter those of the second.
inline int random_word(int operand) { return operand == 2 || operand == 3 ? 0 : 1; }
inline int random_shift(int operand) { return operand == 0 || operand == 3 ? 16 : 0; }

// A number in [0, 1) made of 16 bits.
inline float uniform(std::uint32_t word, int shift) {
  return static_cast<float>(static_cast<std::int32_t>((word >> shift) & 0xffffu)) * 0x1p-16f;
}

// Both keys of the words number `word` of elements whose counters have this upper half.
inline std::uint64_t word_keys(const gaudi3_rt::Draw& draw, int word, std::uint64_t upper) {
  return mix(mix(draw.key + static_cast<std::uint64_t>(word)) + upper);
}

// The words number `word` of elements [begin, begin + n).
inline void draw_words(const gaudi3_rt::Draw& draw, int word, std::int64_t begin, std::int64_t n, std::uint32_t* out) {
  const gaudi3_rt::Elements& map = draw.elements;
  for (std::int64_t i = 0; i < n;) {
    const std::int64_t row = (begin + i) / map.run;
    const std::int64_t column = (begin + i) % map.run;
    const auto element = static_cast<std::uint64_t>(map.base + row * map.stride + column);
    const std::int64_t to_carry = (std::int64_t{1} << 32) - static_cast<std::int64_t>(element & 0xffffffffu);
    std::int64_t count = n - i;  // elements in a row, with counters of the same upper half
    if (count > map.run - column) count = map.run - column;
    if (count > to_carry) count = to_carry;
    const std::uint64_t keys = word_keys(draw, word, element >> 32);
    const auto first = static_cast<std::uint32_t>(element);
    const auto key0 = static_cast<std::uint32_t>(keys), key1 = static_cast<std::uint32_t>(keys >> 32);
#pragma omp simd
    for (std::int64_t j = 0; j < count; ++j) {
      out[i + j] = random_bits(first + static_cast<std::uint32_t>(j), key0, key1);
    }
    i += count;
  }
}
