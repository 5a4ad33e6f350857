// How a kernel's main is called from outside: what its parameters are, and its run over boxes of the index space.
#pragma once
#include <utility>
#include <vector>

#include "state.h"
#include "types.h"

namespace gaudi3_rt::tpc {

template <class>
inline constexpr bool kNever = false;

// The letter of a parameter type in a signature, and its value from the 32 bits of a scalar.
template <class P>
struct Parameter {
  static_assert(kNever<P>,
                "a parameter of main must be a tensor, int, unsigned, float, bf16, half, short, char or bool: no "
                "pointer, vector, structure or wider number");
};
#define G3RT_PARAMETER(P, LETTER)                           \
  template <>                                               \
  struct Parameter<P> {                                     \
    static constexpr char kLetter = LETTER;                 \
    static P value(std::uint32_t bits) {                    \
      P p;                                                  \
      std::memcpy(static_cast<void*>(&p), &bits, sizeof p); \
      return p;                                             \
    }                                                       \
  };
G3RT_PARAMETER(std::int32_t, 'i')
G3RT_PARAMETER(std::uint32_t, 'I')
G3RT_PARAMETER(float, 'f')
G3RT_PARAMETER(bf16, 'y')
G3RT_PARAMETER(half, 'e')
G3RT_PARAMETER(std::int16_t, 'h')
G3RT_PARAMETER(std::uint16_t, 'H')
G3RT_PARAMETER(std::int8_t, 'b')
G3RT_PARAMETER(std::uint8_t, 'B')
G3RT_PARAMETER(char, 'b')
#undef G3RT_PARAMETER
template <>
struct Parameter<bool> {
  static constexpr char kLetter = '?';
  static bool value(std::uint32_t bits) { return (bits & 0xff) != 0; }
};
template <>
struct Parameter<tensor> {
  static constexpr char kLetter = 't';
};

template <class F>
struct Entry {
  static_assert(kNever<F>, "main must be one function");
};
template <class R, class... P>
struct Entry<R (*)(P...)> {
  static_assert(std::is_void_v<R>, "main must return void");
  static constexpr int kTensors = (0 + ... + (Parameter<P>::kLetter == 't' ? 1 : 0));
  static constexpr int kScalars = static_cast<int>(sizeof...(P)) - kTensors;
  static_assert(kTensors <= kMaxTensors, "main may have at most 16 tensors");
  static_assert(kScalars <= kMaxScalars, "main may have at most 32 scalars");
  static constexpr char kSignature[] = {Parameter<P>::kLetter..., '\0'};

  // Which tensor or which scalar parameter I is.
  static constexpr int number(std::size_t index) {
    int n = 0;
    for (std::size_t i = 0; i < index; ++i) n += (kSignature[i] == 't') == (kSignature[index] == 't') ? 1 : 0;
    return n;
  }
  template <class Q>
  static Q argument(int n) {
    if constexpr (std::is_same_v<Q, tensor>) {
      return tensor(n);
    } else {
      return Parameter<Q>::value(machine.run->scalars[n]);
    }
  }
  template <std::size_t... I>
  static void call(R (*main_of_kernel)(P...), std::index_sequence<I...> /*parameters*/) {
    main_of_kernel(argument<P>(number(I))...);
  }
};

// A variable of the kernel in local memory, and what it is initialised with; null for nothing.
struct Local {
  void* address;
  std::int64_t size;
  std::int32_t initialised;
};

struct Locals {
  std::vector<Local> variables;
  std::vector<char> values;  // of the initialised ones, one after the other
};
inline Locals locals;

// Local memory keeps nothing from box to box: what has an initial value has it again, in checking mode the rest is NaN.
inline void begin_locals() {
  const char* value = locals.values.data();
  for (const Local& v : locals.variables) {
    const auto size = static_cast<std::size_t>(v.size);
    if (v.initialised != 0) {
      std::memcpy(v.address, value, size);
      value += size;
    } else if (checking()) {
      std::memset(v.address, 0xff, size);
    }
  }
}

inline void set_locals(const Local* variables, std::int32_t n) {
  locals.variables.assign(variables, variables + n);
  locals.values.clear();
  for (const Local& v : locals.variables) {
    const char* from = static_cast<const char*>(v.address);
    if (v.initialised != 0) locals.values.insert(locals.values.end(), from, from + v.size);
  }
}

// Boxes begin to end - 1 of the run. What is printed is kept until the next call; errors are in the outcome.
template <class F>
std::int32_t run_boxes(F* main_of_kernel, const Run* run, std::int64_t begin, std::int64_t end, Outcome* outcome) {
  machine.run = run;
  machine.outcome = outcome;
  machine.printed.clear();
  try {
    for (std::int64_t i = begin; i < end; ++i) {
      begin_box(i);
      begin_locals();
      Entry<F*>::call(main_of_kernel, std::make_index_sequence<sizeof(Entry<F*>::kSignature) - 1>());
    }
  } catch (const Failure&) {
    return 1;
  }
  return 0;
}

}  // namespace gaudi3_rt::tpc

// After the kernel, whose main is called gaudi3_rt_tpc_main by then. It may have defined macros of any name.
#define GAUDI3_RT_TPC_KERNEL                                                                              \
  extern "C" __attribute__((visibility("default"))) const char* gaudi3_rt_tpc_signature() {               \
    return ::gaudi3_rt::tpc::Entry<decltype(&gaudi3_rt_tpc_main)>::kSignature;                            \
  }                                                                                                       \
  extern "C" __attribute__((visibility("default"))) ::std::int32_t gaudi3_rt_tpc_run(                     \
      const ::gaudi3_rt::tpc::Run* g3rt_run, ::std::int64_t g3rt_begin, ::std::int64_t g3rt_end,          \
      ::gaudi3_rt::tpc::Outcome* g3rt_outcome) {                                                          \
    return ::gaudi3_rt::tpc::run_boxes(gaudi3_rt_tpc_main, g3rt_run, g3rt_begin, g3rt_end, g3rt_outcome); \
  }                                                                                                       \
  extern "C" __attribute__((visibility("default"))) const char* gaudi3_rt_tpc_printed() {                 \
    return ::gaudi3_rt::tpc::machine.printed.c_str();                                                     \
  }                                                                                                       \
  extern "C" __attribute__((visibility("default"))) void gaudi3_rt_tpc_set_locals(                        \
      const ::gaudi3_rt::tpc::Local* g3rt_v, ::std::int32_t g3rt_n) {                                     \
    ::gaudi3_rt::tpc::set_locals(g3rt_v, g3rt_n);                                                         \
  }
