// Integer atomics for the emulated device. There are none on floating-point numbers: their result would depend on the order
// in which threads run.
#pragma once

// gcc would hand atomics to the checker's call-outs as plain accesses: these functions tell the checker themselves.
#define FORNAX_ATOMIC __attribute__((no_sanitize("thread"), unused)) static

// The value converts to the type of what the pointer points to.
template <class T>
struct FornaxValue {
  typedef T Type;
};

#define FORNAX_ATOMIC_UPDATE(NAME, NEXT)                                                                                   \
  template <class T>                                                                                                       \
  FORNAX_ATOMIC T NAME(T* pointer, typename FornaxValue<T>::Type value, const char* file = __builtin_FILE(),               \
                       int line = __builtin_LINE()) {                                                                      \
    static_assert(T(1) / T(2) == T(0), "atomics are for integers: those on floats would depend on the order of threads");  \
    fornax_device::atomic_access(pointer, sizeof(T), file, line);                                                          \
    T old = __atomic_load_n(pointer, __ATOMIC_SEQ_CST);                                                                    \
    while (!__atomic_compare_exchange_n(pointer, &old, NEXT, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {                 \
    }                                                                                                                      \
    return old;                                                                                                            \
  }
FORNAX_ATOMIC_UPDATE(atomicAdd, T(old + value))
FORNAX_ATOMIC_UPDATE(atomicSub, T(old - value))
FORNAX_ATOMIC_UPDATE(atomicMax, old < value ? value : old)
FORNAX_ATOMIC_UPDATE(atomicMin, value < old ? value : old)
FORNAX_ATOMIC_UPDATE(atomicExch, value)
FORNAX_ATOMIC_UPDATE(atomicAnd, T(old & value))
FORNAX_ATOMIC_UPDATE(atomicOr, T(old | value))
FORNAX_ATOMIC_UPDATE(atomicXor, T(old ^ value))
FORNAX_ATOMIC_UPDATE(atomicInc, old >= value ? T(0) : T(old + 1))
FORNAX_ATOMIC_UPDATE(atomicDec, old == 0 || old > value ? value : T(old - 1))

template <class T>
FORNAX_ATOMIC T atomicCAS(T* pointer, typename FornaxValue<T>::Type expected, typename FornaxValue<T>::Type value,
                          const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  fornax_device::atomic_access(pointer, sizeof(T), file, line);
  __atomic_compare_exchange_n(pointer, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
  return expected;
}
