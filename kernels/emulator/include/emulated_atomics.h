// Integer atomics for the emulated device. Float atomics are missing because their result depends on the order of threads.
#pragma once

// gcc would instrument these as plain accesses; they call the checker themselves instead.
#define FORNAX_ATOMIC __attribute__((no_sanitize("thread"), unused)) static

// Keeps `value` out of template deduction: it converts to the pointer's element type.
template <class T>
struct FornaxValue {
  typedef T Type;
};

#define FORNAX_ATOMIC_UPDATE(NAME, NEXT)                                                                                  \
  template <class T>                                                                                                      \
  FORNAX_ATOMIC T NAME(T* pointer, typename FornaxValue<T>::Type value, const char* file = __builtin_FILE(),              \
                       int line = __builtin_LINE()) {                                                                     \
    static_assert(T(1) / T(2) == T(0), "float atomics are not supported: their result depends on the order of threads");  \
    fornax_device::atomic_access(pointer, sizeof(T), file, line);                                                         \
    T old = __atomic_load_n(pointer, __ATOMIC_SEQ_CST);                                                                   \
    while (!__atomic_compare_exchange_n(pointer, &old, NEXT, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {                \
    }                                                                                                                     \
    return old;                                                                                                           \
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
