// Products of few rows with matrices of 32, 16, 8 or 4 bits a weight, channel block by channel block.
//
// A row's sums have one order, whatever rows are beside it: what it gets does not depend on them, to the last bit.
//
// A matrix of float, bfloat16 or half is [O, K]. In 8 and 4 bits it is packed: output channels in blocks of 16, inputs k in
// groups of 32. In a group, vector s holds for each of the 16 channels the four inputs 4s..4s+3:
// [O/16][K/32][8 vectors][16 channels][4 inputs], as w + 128. In 4 bits, byte vector s of 4 holds vector s in its low
// and vector s + 4 in its high nibbles, as w + 8. Activations are rounded to 8 bits a group, with a scale for each group;
// sums within a group are exact integers. Scales of weights: float [O] in 8 bits, bfloat16 [O/16, K/32, 16] in 4 bits.
#pragma once

#include <memory>

#include "vectors.h"

namespace {

// BLOCK: output channels that are computed together. ROWS: activations that stay in the L2 cache.
constexpr int64_t BLOCK = 16, GROUP = 32, ROWS = 128;

#if defined(__AVX512VNNI__) && defined(__AVX512F__)
#define DPBUSD(sum, a, b) (Ints) _mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(a), (__m512i)(b))
#elif defined(__AVXVNNI__) && !defined(__AVX512F__)
#define DPBUSD(sum, a, b) (Ints) _mm256_dpbusd_avx_epi32((__m256i)(sum), (__m256i)(a), (__m256i)(b))
#elif defined(__AVX512BW__)
#define SIMD(name) _mm512_##name
typedef __m512i Register;
inline Register with_sign_of(Register weight, Register x) {
  return _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(weight), Register{}, x);
}
#elif defined(__AVX2__) && !defined(__AVX512F__)
#define SIMD(name) _mm256_##name
typedef __m256i Register;
inline Register with_sign_of(Register weight, Register x) { return _mm256_sign_epi8(x, weight); }
#endif

// How weights are stored: float, c10::BFloat16, c10::Half, or
template <int BITS>
struct Packed {};
template <typename W>
constexpr int PACKED_BITS = 0;
template <int BITS>
constexpr int PACKED_BITS<Packed<BITS>> = BITS;

// The weights of a group for LANES channels: 8 vectors of 4 inputs each, as unsigned bytes w + OFFSET.
template <int BITS>
struct Group {
  static constexpr int64_t OFFSET = 1 << (BITS - 1), VECTOR = 4 * BLOCK, BYTES = BITS * VECTOR;
  Bytes w[8];

  explicit Group(const uint8_t* packed) {
    if constexpr (BITS == 4) {
      for (int s = 0; s < 4; ++s) {
        const Bytes both = load<Bytes>(packed + VECTOR * s);
        w[s] = both & 15;
        w[s + 4] = both >> 4;
      }
    } else {
      for (int s = 0; s < 8; ++s) w[s] = load<Bytes>(packed + VECTOR * s);
    }
  }

  // The products with 32 inputs within -127..127, exact. moved: OFFSET times the sum of the inputs.
  Ints dot(const int8_t* x, int32_t moved) const {
    Ints sum = Ints{} - moved;
#ifdef DPBUSD
    for (int s = 0; s < 8; ++s) sum = DPBUSD(sum, w[s], Ints{} + load<int32_t>(x + 4 * s));
#elif defined(SIMD)  // 16 bits hold all 8 pairs of 15 * 127: widen once. They hold one pair of 127 * 127, unsigned
    // times signed, so there w x = |w| (sign(w) x).
    const Register ones = SIMD(set1_epi16)(1);
    Register pairs = {}, wide = BITS == 4 ? (Register)sum : pairs;
    for (int s = 0; s < 8; ++s) {
      const Register inputs = SIMD(set1_epi32)(load<int32_t>(x + 4 * s));
      if constexpr (BITS == 4) {
        pairs = SIMD(add_epi16)(pairs, SIMD(maddubs_epi16)((Register)w[s], inputs));
      } else {
        const Register weight = (Register)(w[s] ^ 128);
        const Register product = SIMD(maddubs_epi16)(SIMD(abs_epi8)(weight), with_sign_of(weight, inputs));
        wide = SIMD(add_epi32)(wide, SIMD(madd_epi16)(product, ones));
      }
    }
    sum = (Ints)(BITS == 4 ? SIMD(add_epi32)(wide, SIMD(madd_epi16)(pairs, ones)) : wide);
#else
    for (int s = 0; s < 8; ++s)
      for (int c = 0; c < LANES; ++c)
        for (int i = 0; i < 4; ++i) sum[c] += int32_t(w[s][4 * c + i]) * x[4 * s + i];
#endif
    return sum;
  }
};

// M rows of K activations, as a product with weights W takes them.
template <typename W>
struct Activations {
  int64_t K;
  std::unique_ptr<float[]> x;

  Activations(int64_t M, int64_t K) : K(K), x(new float[M * K]) {}

  // Takes inputs k..k+n-1 of row m; with packed weights whole groups.
  void set(int64_t m, int64_t k, const float* from, int64_t n) { std::memcpy(&x[m * K + k], from, 4 * n); }
};

// q: in 8 bits; scale: of each group; moved: the sum of each group times what weights are moved by.
template <int BITS>
struct Activations<Packed<BITS>> {
  int64_t K;
  std::unique_ptr<int8_t[]> q;
  std::unique_ptr<float[]> scale;
  std::unique_ptr<int32_t[]> moved;

  Activations(int64_t M, int64_t K)
      : K(K), q(new int8_t[M * K]), scale(new float[M * K / GROUP]), moved(new int32_t[M * K / GROUP]) {}

  void set(int64_t m, int64_t k, const float* from, int64_t n) {
    for (int64_t i = 0; i < n; i += GROUP) round_group(from + i, (m * K + k + i) / GROUP);
  }

  void round_group(const float* from, int64_t g) {
    Floats x[GROUP / LANES], most = {};
    for (int64_t i = 0; i < GROUP / LANES; ++i) {
      x[i] = load_floats(from + i * LANES);
      const Floats size = x[i] < 0 ? -x[i] : x[i];
      most = size > most ? size : most;
    }
    const float bound = largest(most);
    const float inverse = bound > 0 ? 127 / bound : 0;
    Ints total = {};
    for (int64_t i = 0; i < GROUP / LANES; ++i) {
      // adding 1.5 * 2^23 leaves no bits for a fraction: rounds to the nearest, ties to even
      const Ints whole = __builtin_convertvector((x[i] * inverse + 12582912.0f) - 12582912.0f, Ints);
      typedef int8_t Narrow __attribute__((vector_size(LANES)));
      const Narrow narrow = __builtin_convertvector(whole, Narrow);
      std::memcpy(q.get() + g * GROUP + i * LANES, &narrow, sizeof narrow);
      total += whole;
    }
    int32_t all = 0;
    for (int i = 0; i < LANES; ++i) all += total[i];
    scale[g] = bound / 127;
    moved[g] = Group<BITS>::OFFSET * all;
  }
};

// A matrix as stored, and the bias of its product: null where there is none.
struct Matrix {
  const char* w;
  const char* scale;
  const float* bias;
  int64_t O;
};

// y [R rows, LANES channels] for R rows that begin at row m; w, scale and y begin at the first of the channels.
template <int BITS, int R>
void packed_tile(const Activations<Packed<BITS>>& x, int64_t m, const char* packed, const char* scale, float* y,
                 int64_t stride) {
  constexpr int ONCE = R == 8 ? 3 : 0;  // more rows may follow, which read the same weights
  const uint8_t* w = reinterpret_cast<const uint8_t*>(packed);
  const int64_t groups = x.K / GROUP;
  Floats total[R] = {};
  for (int64_t g = 0; g < groups; ++g) {
    const uint8_t* ahead = w + g * Group<BITS>::BYTES + PREFETCH;
    for (int64_t i = 0; i < Group<BITS>::BYTES; i += 64) __builtin_prefetch(ahead + i, 0, ONCE);
    const Group<BITS> weights(w + g * Group<BITS>::BYTES);
    Floats weight_scale = {};
    if constexpr (BITS == 4) weight_scale = load_floats(reinterpret_cast<const c10::BFloat16*>(scale) + g * BLOCK);
    for (int r = 0; r < R; ++r) {
      const int64_t at = (m + r) * groups + g;
      const Floats product = __builtin_convertvector(weights.dot(&x.q[at * GROUP], x.moved[at]), Floats);
      total[r] += product * (BITS == 4 ? weight_scale * x.scale[at] : Floats{} + x.scale[at]);
    }
  }
  for (int r = 0; r < R; ++r) {
    if constexpr (BITS == 8) total[r] *= load_floats(reinterpret_cast<const float*>(scale));
    std::memcpy(y + r * stride, &total[r], sizeof(Floats));
  }
}

// y [R rows, C channels]: enough independent sums to hide the latency of one.
template <int R, int C, typename W>
void float_tile(const float* x, const W* w, float* y, int64_t K, int64_t stride) {
  Floats total[C][R] = {};
  for (int64_t k = 0; k < K; k += LANES) {
    Floats inputs[R];
    for (int r = 0; r < R; ++r) inputs[r] = load_floats(x + r * K + k);
    for (int c = 0; c < C; ++c) {
      const Floats weights = load_floats(w + c * K + k);
      if (k % (64 / sizeof(W)) == 0) __builtin_prefetch(w + (c + C) * K + k, 0, 0);
      for (int r = 0; r < R; ++r) total[c][r] += weights * inputs[r];
    }
  }
  for (int c = 0; c < C; ++c)
    for (int r = 0; r < R; ++r) y[r * stride + c] = sum(total[c][r]);
}

template <typename W, int R>
void tile(const Activations<W>& x, int64_t m, const Matrix& a, int64_t block, float* y, int64_t stride) {
  if constexpr (constexpr int BITS = PACKED_BITS<W>; BITS == 0) {
    const W* w = reinterpret_cast<const W*>(a.w) + block * BLOCK * x.K;
    constexpr int C = R == 4 ? 2 : 4;
    for (int64_t c = 0; c < BLOCK; c += C) float_tile<R, C>(&x.x[m * x.K], w + c * x.K, y + c, x.K, stride);
  } else {
    constexpr int64_t SCALE_BYTES = BITS == 4 ? sizeof(c10::BFloat16) : sizeof(float);
    const char* w = a.w + block * (x.K / GROUP) * Group<BITS>::BYTES;
    const char* scale = a.scale + block * BLOCK * (BITS == 4 ? x.K / GROUP : 1) * SCALE_BYTES;
    for (int64_t c = 0; c < BLOCK; c += LANES)
      packed_tile<BITS, R>(x, m, w + 4 * c, scale + c * SCALE_BYTES, y + c, stride);
  }
}

// y [m, BLOCK] for rows m from begin to end: a block of channels of x W^T. Row m of y stands at y + (m - begin) * stride.
template <typename W>
void product(const Activations<W>& x, int64_t begin, int64_t end, const Matrix& a, int64_t block, float* y,
             int64_t stride) {
  int64_t m = begin;
  const auto next = [&](auto rows) {
    constexpr int R = decltype(rows)::value;
    tile<W, R>(x, m, a, block, y + (m - begin) * stride, stride);
    m += R;
  };
  if constexpr (PACKED_BITS<W> != 0)
    while (m + 8 <= end) next(std::integral_constant<int, 8>());
  while (m + 4 <= end) next(std::integral_constant<int, 4>());
  while (m + 2 <= end) next(std::integral_constant<int, 2>());
  if (m < end) next(std::integral_constant<int, 1>());
  if (a.bias)
    for (m = begin; m < end; ++m)
      for (int64_t c = 0; c < BLOCK; ++c) y[(m - begin) * stride + c] += a.bias[block * BLOCK + c];
}

}  // namespace
