// CUDA's vector types, for the emulated device.
#pragma once

#define FORNAX_VECTORS(NAME, T)                                                              \
  struct NAME##1 {                                                                           \
    T x;                                                                                     \
  };                                                                                         \
  struct alignas(2 * sizeof(T)) NAME##2 {                                                    \
    T x, y;                                                                                  \
  };                                                                                         \
  struct NAME##3 {                                                                           \
    T x, y, z;                                                                               \
  };                                                                                         \
  struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) NAME##4 {                          \
    T x, y, z, w;                                                                            \
  };                                                                                         \
  static inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                          \
  static inline NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }                  \
  static inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }

FORNAX_VECTORS(char, signed char)
FORNAX_VECTORS(uchar, unsigned char)
FORNAX_VECTORS(short, short)
FORNAX_VECTORS(ushort, unsigned short)
FORNAX_VECTORS(int, int)
FORNAX_VECTORS(uint, unsigned)
FORNAX_VECTORS(longlong, long long)
FORNAX_VECTORS(ulonglong, unsigned long long)
FORNAX_VECTORS(float, float)
FORNAX_VECTORS(double, double)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
