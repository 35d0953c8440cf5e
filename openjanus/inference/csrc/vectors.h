// Vectors of floats as wide as the machine has them, those of GCC and Clang: they are lowered to whatever there is.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

// Bytes ahead. What is read once is fetched past the outer caches (locality 0): it would only push out what is used again.
constexpr int64_t PREFETCH = 4096;

// LANES: floats in the widest vector of this machine.
#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint8_t Bytes __attribute__((vector_size(4 * LANES)));

template <typename V, typename T>
inline V load(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline Floats load_floats(const float* p) { return load<Floats>(p); }

inline Floats load_floats(const c10::BFloat16* p) {  // bfloat16 is the upper half of a float
  typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
  typedef uint32_t UInts __attribute__((vector_size(4 * LANES)));
#ifdef __AVX512F__  // which GCC does not find in a conversion of 16
  const UInts wide = (UInts)_mm512_cvtepu16_epi32((__m256i)load<Halves>(p)) << 16;
#else
  const UInts wide = __builtin_convertvector(load<Halves>(p), UInts) << 16;
#endif
  return (Floats)wide;
}

#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE(v, ...) __builtin_shufflevector(v, v, __VA_ARGS__)
#else  // GCC 11
#define SHUFFLE(v, ...) __builtin_shuffle(v, Ints{__VA_ARGS__})
#endif
inline Floats load_floats(const c10::Half* p) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtph_ps(load<__m256i>(p));
#elif defined(__F16C__)
  return (Floats)_mm256_cvtph_ps(load<__m128i>(p));
#else
  Floats v;
  for (int i = 0; i < LANES; ++i) v[i] = p[i];
  return v;
#endif
}

// Joins all lanes: each meets the one that is 8, 4, 2 and 1 away.
template <typename F>
inline float reduce(Floats v, const F& join) {
#ifdef __AVX512F__
  v = join(v, SHUFFLE(v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  v = join(v, SHUFFLE(v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  v = join(v, SHUFFLE(v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  v = join(v, SHUFFLE(v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
#else
  v = join(v, SHUFFLE(v, 4, 5, 6, 7, 0, 1, 2, 3));
  v = join(v, SHUFFLE(v, 2, 3, 0, 1, 6, 7, 4, 5));
  v = join(v, SHUFFLE(v, 1, 0, 3, 2, 5, 4, 7, 6));
#endif
  return v[0];
}

inline float sum(Floats v) {
  return reduce(v, [](Floats a, Floats b) { return a + b; });
}

inline float largest(Floats v) {
  return reduce(v, [](Floats a, Floats b) { return a > b ? a : b; });
}

// e^x for x <= 0: 2^n * e^r with |r| <= ln(2)/2, relative error below 1e-6
inline Floats exponential(Floats x) {
  x = x < -87.0f ? Floats{} - 87.0f : x;
  const Ints n = __builtin_convertvector(x * 1.44269504f - 0.5f, Ints);  // truncates: rounds x / ln(2), as it is <= -0.5
  const Floats r = x - __builtin_convertvector(n, Floats) * 0.693147181f;
  Floats p = Floats{} + 1.0f / 720;
  for (const float c : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = p * r + c;
  const Ints power = (n + 127) << 23;
  return p * load<Floats>(&power);
}

// The error function: polynomials by N. Juffa (https://stackoverflow.com/a/35148199), absolute error below 3e-7.
inline Floats error_function(Floats x) {
  const Floats size = x < 0 ? -x : x, square = x * x;
  Floats near = Floats{} - 5.96761703e-4f;  // x + x p(x^2)
  for (const float c : {4.99119423e-3f, -2.67681349e-2f, 1.12819925e-1f, -3.76125336e-1f, 1.28379166e-1f})
    near = near * square + c;
  near = near * x + x;
  Floats far = (size * -1.72853470e-5f + 3.83197126e-4f) * square + (size * -3.88396438e-3f + 2.42546219e-2f);
  for (const float c : {-1.06777877e-1f, -6.34846687e-1f, -1.28717512e-1f}) far = far * size + c;
  far = 1 - exponential(far * size - size);  // 1 - e^p(|x|)
  return size > 0.927734375f ? (x < 0 ? -far : far) : near;
}

inline Floats gelu(Floats x) { return 0.5f * x * (1 + error_function(x * 0.707106781f)); }

}  // namespace
