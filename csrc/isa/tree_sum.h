// Sums of nodes along a tree, tile by tile: leaves are added in registers, partial sums wait in the L1 cache. Included
// by body.h inside its namespace.

using gaudi3_rt::kMaxDepth;
using gaudi3_rt::TreeSum;

// Where the result of an addition goes: to the stack of partial sums, or to the sum, as floats or as bfloat16.
enum class Sink { stack, floats, bf16 };

// A tile of floats, one after the other.
struct Linear {
  static constexpr int kParts = 1;
  using Leaf = const float*;

  template <int kPart>
  GAUDI3_RT_EARLY static float load(Leaf leaf, std::int64_t i) {
    return leaf[i];
  }

  template <Sink kSink>
  GAUDI3_RT_EARLY static void store(const float (&x)[1], std::int64_t i, void* to) {
    if constexpr (kSink == Sink::bf16) {
      static_cast<std::uint16_t*>(to)[i] = BF16::store(x[0]);
    } else {
      static_cast<float*>(to)[i] = x[0];
    }
  }
};

// A tile of bfloat16, read as words of two. Nothing has to be widened or narrowed then: a register of words becomes one
// of first halves and one of second halves, and on the stack a tile's first halves come before its second ones.
struct Pairs {
  static constexpr int kParts = 2;
  static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first element is in the lower half of a word");
  typedef std::uint32_t Word __attribute__((may_alias));
  using Leaf = const Word*;

  template <int kPart>
  GAUDI3_RT_EARLY static float load(Leaf leaf, std::int64_t i) {
    return bit_cast<float>(kPart == 0 ? leaf[i] << 16 : leaf[i] & 0xffff0000u);
  }

  template <Sink kSink>
  GAUDI3_RT_EARLY static void store(const float (&x)[2], std::int64_t i, void* to) {
    if constexpr (kSink == Sink::stack) {
      static_cast<float*>(to)[i] = x[0];
      static_cast<float*>(to)[kTile / 2 + i] = x[1];
    } else if constexpr (kSink == Sink::floats) {
      static_cast<float*>(to)[2 * i] = x[0];
      static_cast<float*>(to)[2 * i + 1] = x[1];
    } else {
      static_cast<Word*>(to)[i] = rounded(x[0]) >> 16 | (rounded(x[1]) & 0xffff0000u);
    }
  }

 private:
  // The upper half is BF16::store(x). A NaN needs no care: it comes from bfloat16, from infinities or is the factor, so
  // its lower half is 0 (tree_sums sees to the factor's) and nothing carries.
  GAUDI3_RT_EARLY static std::uint32_t rounded(float x) {
    const std::uint32_t bits = bit_cast<std::uint32_t>(x);
    return bits + 0x7fffu + ((bits >> 16) & 1u);
  }
};

// Adds consecutive leaves (none, one, two or four) and the partial sum to the left of them, if there is one:
// factor * (partial + ((leaf + leaf) + (leaf + leaf))). A factor of 1 changes no bit.
// ask: for the next tile of each leaf.
template <class Layout, Sink kSink, int kLeaves, bool kOnto>
void add_leaves(const typename Layout::Leaf* leaves, const float* partial, std::int64_t n, float factor, bool ask,
                void* to) {
  const auto a = leaves[0], b = leaves[1], c = leaves[2], d = leaves[3];
  const auto add = [=](auto part, std::int64_t i) GAUDI3_RT_EARLY {
    constexpr int kPart = decltype(part)::value;
    float x = 0;
    if constexpr (kLeaves >= 1) x = Layout::template load<kPart>(a, i);
    if constexpr (kLeaves >= 2) x = x + Layout::template load<kPart>(b, i);
    if constexpr (kLeaves == 4) x = x + (Layout::template load<kPart>(c, i) + Layout::template load<kPart>(d, i));
    if constexpr (kOnto) {
      const float left = partial[kPart * (kTile / 2) + i];
      x = kLeaves == 0 ? left : left + x;
    }
    return factor * x;
  };
  const auto run = [=](std::int64_t begin, auto length) GAUDI3_RT_EARLY {
#pragma omp simd
    for (std::int64_t i = begin; i < begin + length; ++i) {
      float x[Layout::kParts];
      x[0] = add(std::integral_constant<int, 0>(), i);
      if constexpr (Layout::kParts == 2) x[1] = add(std::integral_constant<int, 1>(), i);
      Layout::template store<kSink>(x, i, to);
    }
  };
  // Two lines at a time, between additions: all of them at once would make the additions wait.
  constexpr std::int64_t kTwoLines = 32, kAhead = kTile / Layout::kParts;
  const std::int64_t words = n / Layout::kParts;
  std::int64_t i = 0;
  for (; i + kTwoLines <= words; i += kTwoLines) {
    for (int j = 0; ask && j < kLeaves; ++j) {
      for (std::int64_t line = i; line < i + kTwoLines; line += 16) __builtin_prefetch(leaves[j] + kAhead + line);
    }
    run(i, std::integral_constant<std::int64_t, kTwoLines>());
  }
  run(i, words - i);
}

template <class Layout, Sink kSink>
void add_leaves(int n_leaves, const typename Layout::Leaf* leaves, const float* partial, std::int64_t n, float factor,
                bool ask, void* to) {
  const bool onto = partial != nullptr;
  switch (n_leaves) {
    case 0:
      return add_leaves<Layout, kSink, 0, true>(leaves, partial, n, factor, ask, to);
    case 1:
      return onto ? add_leaves<Layout, kSink, 1, true>(leaves, partial, n, factor, ask, to)
                  : add_leaves<Layout, kSink, 1, false>(leaves, partial, n, factor, ask, to);
    case 2:
      return onto ? add_leaves<Layout, kSink, 2, true>(leaves, partial, n, factor, ask, to)
                  : add_leaves<Layout, kSink, 2, false>(leaves, partial, n, factor, ask, to);
    default:
      return onto ? add_leaves<Layout, kSink, 4, true>(leaves, partial, n, factor, ask, to)
                  : add_leaves<Layout, kSink, 4, false>(leaves, partial, n, factor, ask, to);
  }
}

// Copies without reading the lines that are replaced into the caches; `to` is a multiple of 64.
void copy_past_caches(void* to, const void* from, std::int64_t bytes) {
  char* const out = static_cast<char*>(to);
  const char* const in = static_cast<const char*>(from);
  std::int64_t done = 0;
#if defined(__AVX512F__)
  for (; done + 64 <= bytes; done += 64) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(out + done), _mm512_loadu_si512(in + done));
  }
#elif defined(__SSE2__)
  for (; done + 16 <= bytes; done += 16) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(out + done),
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + done)));
  }
#endif
  std::memcpy(out + done, in + done, static_cast<std::size_t>(bytes - done));
}

class TreeTiles {
 public:
  // For tiles of elements before `end`; in_order: each begins where the one before it ends.
  TreeTiles(const TreeSum& sum, std::int64_t end, bool in_order)
      : sum_(sum), end_(end), in_order_(in_order), in_pairs_(can_pair(sum.out)) {
    for (int i = 0; i < sum.n_nodes; ++i) in_pairs_ &= sum.nodes[i].codec == Codec::bf16 && can_pair(sum.nodes[i]);
  }

  // Forms and stores elements [begin, begin + n); returns the memory of what is stored, which may be a copy of it.
  Operand form(std::int64_t begin, std::int64_t n, float* floats) {
    return in_pairs_ && n % 2 == 0 ? form<Pairs>(begin, n, floats) : form<Linear>(begin, n, floats);
  }

 private:
  static bool can_pair(const Operand& x) { return reinterpret_cast<std::uintptr_t>(x.data) % sizeof(Pairs::Word) == 0; }

  // Floats that are read in order the CPU fetches by itself, and better.
  template <class Layout>
  bool asks() const {
    return std::is_same_v<Layout, Pairs> || !in_order_;
  }

  template <class Layout>
  Operand form(std::int64_t begin, std::int64_t n, float* floats) {
    typename Layout::Leaf leaves[4] = {};
    int depth = 0;
    for (int i = 0; i < sum_.n_nodes;) {
      const int n_leaves = leaves_from(i);
      for (int j = 0; j < n_leaves; ++j) leaves[j] = leaf(Layout(), i + j, j, begin, n);
      i += n_leaves;
      int merges = sum_.merges[i - 1] - (n_leaves == 4 ? 2 : n_leaves - 1);
      const float* onto = nullptr;
      if (merges > 0) {
        onto = stack_[depth - 1];
        --merges;
      } else {
        ++depth;
      }
      if (i == sum_.n_nodes && merges == 0) return put<Layout>(n_leaves, leaves, onto, begin, n, floats);
      add_leaves<Layout, Sink::stack>(n_leaves, leaves, onto, n, 1, asks<Layout>(), stack_[depth - 1]);
      for (; merges > 0; --merges, --depth) merge(stack_[depth - 2], stack_[depth - 1]);
    }
    return put<Layout>(0, leaves, stack_[0], begin, n, floats);
  }

  // How many nodes from i on are added to one another before anything else is: 4, 2 or 1.
  int leaves_from(int i) const {
    const std::uint8_t* const merges = sum_.merges + i;
    const int left = sum_.n_nodes - i;
    if (left < 2 || merges[0] != 0 || merges[1] == 0) return 1;
    return left >= 4 && merges[1] == 1 && merges[2] == 0 && merges[3] >= 2 ? 4 : 2;
  }

  Linear::Leaf leaf(Linear, int i, int j, std::int64_t begin, std::int64_t n) {
    if (begin + n < end_) prefetch(sum_.nodes[i], begin + n);
    return read(sum_.nodes[i], begin, n, leaves_[j]);
  }

  Pairs::Leaf leaf(Pairs, int i, int, std::int64_t begin, std::int64_t) const {
    return static_cast<Pairs::Leaf>(sum_.nodes[i].data) + begin / 2;
  }

  // Whole tiles: what is beyond the elements is not looked at.
  static void merge(float* left, const float* right) {
#pragma omp simd
    for (std::int64_t i = 0; i < kTile; ++i) left[i] = left[i] + right[i];
  }

  // The last addition, and the sum into memory.
  template <class Layout>
  Operand put(int n_leaves, const typename Layout::Leaf* leaves, const float* onto, std::int64_t begin, std::int64_t n,
              float* floats) {
    const bool is_float = sum_.out.codec == Codec::f32;
    const std::int64_t bytes = is_float ? sizeof(float) : sizeof(std::uint16_t);
    void* const memory = static_cast<char*>(sum_.out.data) + bytes * begin;
    const Operand stored = {!sum_.bypass ? memory
                            : is_float   ? static_cast<void*>(floats)
                                         : stored_,
                            sum_.out.codec, nullptr};
    if (stored.codec == Codec::bf16) {
      add_leaves<Layout, Sink::bf16>(n_leaves, leaves, onto, n, sum_.factor, asks<Layout>(), stored.data);
    } else if (is_float) {
      add_leaves<Layout, Sink::floats>(n_leaves, leaves, onto, n, sum_.factor, asks<Layout>(), stored.data);
    } else {
      add_leaves<Layout, Sink::floats>(n_leaves, leaves, onto, n, sum_.factor, asks<Layout>(), floats);
      write(stored, 0, n, floats, {});
    }
    if (sum_.bypass) copy_past_caches(memory, stored.data, bytes * n);
    return stored;
  }

  const TreeSum& sum_;
  const std::int64_t end_;
  const bool in_order_;
  bool in_pairs_;
  alignas(64) float stack_[kMaxDepth][kTile];
  alignas(64) float leaves_[4][kTile];
  alignas(64) std::uint16_t stored_[kTile];
};

double tree_sum_chunk(const TreeSum& sum, std::int64_t begin, std::int64_t n, bool measured) {
  TreeTiles tiles(sum, begin + n, !measured);
  double sum_squares = 0;
  if (measured) {
    const auto form = [&](std::int64_t first, std::int64_t length, bool, float* buffer) {
      return read(tiles.form(begin + first, length, buffer), 0, length, buffer);
    };
    sum_squares = reduce_streams<SumSquares>(n, form).value();
  } else {
    alignas(64) float buffer[kTile];
    for_each_tile(begin, n, [&](std::int64_t first, std::int64_t length) { tiles.form(first, length, buffer); });
  }
#if defined(__SSE2__)
  if (sum.bypass) _mm_sfence();  // before another thread is told that the sum is there
#endif
  return sum_squares;
}
