// What a formula of the registry offers, asked of its type. Included inside a namespace of the includer.

// Kernels: one pass (step), or two with norms of the whole tensor between them (first, measured, set_ratio, second).
template <class Kernel, class = void>
constexpr bool has_two_passes = false;
template <class Kernel>
constexpr bool has_two_passes<Kernel, std::void_t<decltype(Kernel::kFirstWritesStates)>> = true;

// Codecs: either read (write) for a tile, or load (store) for one element.
template <class C, class = void>
constexpr bool reads_tiles = false;
template <class C>
constexpr bool reads_tiles<C, std::void_t<decltype(C::read)>> = true;
template <class C, class = void>
constexpr bool writes_tiles = false;
template <class C>
constexpr bool writes_tiles<C, std::void_t<decltype(C::write)>> = true;

// Codecs: bytes at Operand::second, and whether they belong to an element or to a block.
template <class C, class = void>
constexpr std::int64_t second_bytes = 0;
template <class C>
constexpr std::int64_t second_bytes<C, std::void_t<decltype(C::kSecondBytes)>> = C::kSecondBytes;
template <class C, class = void>
constexpr bool in_blocks = false;
template <class C>
constexpr bool in_blocks<C, std::void_t<typename C::Scales>> = true;

// Codecs: whether what they write depends on random bits.
template <class C, class = void>
constexpr bool draws = false;
template <class C>
constexpr bool draws<C, std::void_t<decltype(C::kDraws)>> = true;
