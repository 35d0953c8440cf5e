// Two products that a decode step is made of, on the CPU, at the speed of memory:
//
//   packed_linear      x W^T for few rows x, with W in 16, 8 or 4 bits a weight
//   decode_attention   a few new positions a row over the rows of a KV cache
//
// A step reads every weight and every remembered position once and computes little with it; torch's own kernels for
// these shapes read them several times slower than memory delivers (docs/speed.md has the figures). Built at first use
// (openjanus/inference/kernels.py), which also has the plain torch formulas that tests hold against these. Vectors are
// those of GCC and Clang, lowered to whatever the machine has; one product of bytes is written for AVX2 and VNNI.
//
// Packed layout: output channels in blocks of 8, inputs k in groups of 32. In a group, vector s holds for each of the
// 8 channels the four inputs 4s..4s+3: [O/8][K/32][8 vectors][8 channels][4 inputs]. In 4 bits, byte vector s of 4 holds
// vector s in its low and vector s + 4 in its high nibbles, as w + 8. Activations are rounded to 8 bits a group, with
// a scale for each group; sums within a group are exact integers.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

// ROWS: activations that stay in the L2 cache. BLOCKS: of weights that a thread takes at once. PREFETCH: bytes ahead.
constexpr int64_t CHANNELS = 8, GROUP = 32, ROWS = 128, BLOCKS = 16, PREFETCH = 2048;

typedef float Float8 __attribute__((vector_size(32)));
typedef int32_t Int8 __attribute__((vector_size(32)));
typedef uint32_t UInt8 __attribute__((vector_size(32)));
typedef uint16_t Half8 __attribute__((vector_size(16)));
typedef int8_t Bytes __attribute__((vector_size(32)));

template <typename V, typename T>
inline V load(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline Float8 splat(float x) { return Float8{} + x; }

inline Float8 load8(const float* p) { return load<Float8>(p); }

inline Float8 load8(const c10::BFloat16* p) {  // bfloat16 is the upper half of a float
  const UInt8 wide = __builtin_convertvector(load<Half8>(p), UInt8) << 16;
  return load<Float8>(&wide);
}

inline float sum(Float8 v) {
  float s = 0;
  for (int i = 0; i < 8; ++i) s += v[i];
  return s;
}

// Threads take the next `grain` of what is to be done whenever they are free: where cores are shared with others, one
// that is slowed down holds nobody up.
template <typename F>
void share(int64_t total, int64_t grain, const F& work) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    for (int64_t begin; (begin = next.fetch_add(grain)) < total;) work(begin, std::min(begin + grain, total));
  });
}

// 256 weights: 8 vectors of 4 inputs for 8 channels. In 8 bits also their sizes, since the product of bytes that x86 has
// takes one unsigned factor: w x = |w| (sign(w) x).
template <int BITS>
struct Group {
  Bytes w[8], size[8];

  explicit Group(const uint8_t* packed) {
    if constexpr (BITS == 4) {
      typedef uint8_t UBytes __attribute__((vector_size(32)));
      for (int s = 0; s < 4; ++s) {
        const UBytes both = load<UBytes>(packed + 32 * s);
        w[s] = (Bytes)(both & 15);
        w[s + 4] = (Bytes)(both >> 4);
      }
    } else {
      std::memcpy(w, packed, sizeof w);
#ifdef __AVX2__
      for (int s = 0; s < 8; ++s) size[s] = (Bytes)_mm256_abs_epi8((__m256i)w[s]);
#endif
    }
  }

  // The products with 32 inputs within -127..127, for 8 channels: exact.
  Int8 dot(const int8_t* x) const {
#ifdef __AVX2__
    __m256i sum = _mm256_setzero_si256();
    for (int s = 0; s < 8; ++s) {
      const __m256i inputs = _mm256_set1_epi32(load<int32_t>(x + 4 * s));
      const __m256i a = (__m256i)(BITS == 4 ? w : size)[s];
      const __m256i b = BITS == 4 ? inputs : _mm256_sign_epi8(inputs, (__m256i)w[s]);
#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
      sum = _mm256_dpbusd_epi32(sum, a, b);
    }
#else  // 16 bits hold a pair of 127 * 127, and all 8 pairs of 15 * 127: there, widen once
      const __m256i pairs = _mm256_maddubs_epi16(a, b);
      if constexpr (BITS == 4)
        sum = _mm256_add_epi16(sum, pairs);
      else
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    if constexpr (BITS == 4) sum = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
#endif
    return (Int8)sum;
#else
    Int8 sum = {};
    for (int s = 0; s < 8; ++s)
      for (int c = 0; c < 8; ++c)
        for (int i = 0; i < 4; ++i) sum[c] += int32_t(w[s][4 * c + i]) * x[4 * s + i];
    return sum;
#endif
  }
};

// Activations in 8 bits: q [M, K], scale [M, K/32], and 8 times the sum of each group, which 4-bit weights are moved by.
struct Rounded {
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<int32_t> sum8;

  Rounded(const float* x, int64_t M, int64_t K) : q(M * K), scale(M * K / GROUP), sum8(M * K / GROUP) {
    at::parallel_for(0, M * K / GROUP, 4096, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) {
        const float* from = x + g * GROUP;
        float largest = 0;
        for (int64_t i = 0; i < GROUP; ++i) largest = std::max(largest, std::fabs(from[i]));
        const float inverse = largest > 0 ? 127 / largest : 0;
        int32_t total = 0;
        for (int64_t i = 0; i < GROUP; ++i) {
          const float y = from[i] * inverse;
          const int32_t rounded = int32_t(y + std::copysign(0.5f, y));
          q[g * GROUP + i] = int8_t(rounded);
          total += rounded;
        }
        scale[g] = largest / 127;
        sum8[g] = 8 * total;
      }
    });
  }
};

// y [R rows, 8 channels] for R rows that begin at row m.
template <int BITS, int R>
void packed_tile(const Rounded& x, int64_t m, const uint8_t* w, const void* scale, float* y, int64_t K, int64_t O) {
  const int64_t groups = K / GROUP;
  Float8 total[R] = {};
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t i = 0; i < CHANNELS * GROUP * BITS / 8; i += 64)
      __builtin_prefetch(w + g * (CHANNELS * GROUP * BITS / 8) + i + PREFETCH);
    const Group<BITS> weights(w + g * (CHANNELS * GROUP * BITS / 8));
    Float8 weight_scale = splat(1);
    if constexpr (BITS == 4) weight_scale = load8(static_cast<const c10::BFloat16*>(scale) + g * CHANNELS);
    for (int r = 0; r < R; ++r) {
      const int64_t at = (m + r) * groups + g;
      Int8 sum = weights.dot(x.q.data() + at * GROUP);
      if constexpr (BITS == 4) sum -= x.sum8[at];
      const Float8 product = __builtin_convertvector(sum, Float8) * x.scale[at];
      total[r] += BITS == 4 ? product * weight_scale : product;
    }
  }
  for (int r = 0; r < R; ++r) {
    if constexpr (BITS == 8) total[r] *= load8(static_cast<const float*>(scale));
    std::memcpy(y + (m + r) * O, &total[r], sizeof(Float8));
  }
}

template <int BITS>
void packed_block(const Rounded& x, int64_t begin, int64_t end, const uint8_t* w, const void* scale, float* y, int64_t K,
                  int64_t O) {
  int64_t m = begin;
  for (; m + 8 <= end; m += 8) packed_tile<BITS, 8>(x, m, w, scale, y, K, O);
  for (; m + 4 <= end; m += 4) packed_tile<BITS, 4>(x, m, w, scale, y, K, O);
  for (; m + 2 <= end; m += 2) packed_tile<BITS, 2>(x, m, w, scale, y, K, O);
  if (m < end) packed_tile<BITS, 1>(x, m, w, scale, y, K, O);
}

// x float [M, K], w as above, scale float [O] in 8 bits or bfloat16 [O/8, K/32, 8] in 4 bits -> float [M, O]
template <int BITS>
at::Tensor packed_linear(const at::Tensor& x, const at::Tensor& w, const at::Tensor& scale) {
  const int64_t M = x.size(0), K = x.size(1), O = w.size(0) * CHANNELS;
  TORCH_CHECK(x.scalar_type() == at::kFloat && x.is_contiguous() && w.is_contiguous() && scale.is_contiguous());
  TORCH_CHECK(K % GROUP == 0 && w.numel() == O * K * BITS / 8 && scale.numel() == (BITS == 4 ? O * K / GROUP : O));
  at::Tensor y = at::empty({M, O}, x.options());
  const Rounded rounded(x.const_data_ptr<float>(), M, K);
  const uint8_t* weights = static_cast<const uint8_t*>(w.const_data_ptr());
  const char* scales = static_cast<const char*>(scale.const_data_ptr());
  const int64_t block_bytes = CHANNELS * K * BITS / 8;
  const int64_t scale_bytes = BITS == 4 ? CHANNELS * (K / GROUP) * sizeof(c10::BFloat16) : CHANNELS * sizeof(float);
  float* out = y.data_ptr<float>();
  share(O / CHANNELS, BLOCKS, [&](int64_t begin, int64_t end) {
    for (int64_t m = 0; m < M; m += ROWS)
      for (int64_t b = begin; b < end; ++b)
        packed_block<BITS>(rounded, m, std::min(m + ROWS, M), weights + b * block_bytes, scales + b * scale_bytes,
                           out + b * CHANNELS, K, O);
  });
  return y;
}

// y [R rows, C channels]: enough independent sums to hide the latency of one.
template <int R, int C>
void bfloat16_tile(const float* x, const c10::BFloat16* w, float* y, int64_t K, int64_t O) {
  Float8 total[C][R] = {};
  for (int64_t k = 0; k < K; k += 8) {
    Float8 inputs[R];
    for (int r = 0; r < R; ++r) inputs[r] = load8(x + r * K + k);
    for (int c = 0; c < C; ++c) {
      const Float8 weights = load8(w + c * K + k);
      if (k % 32 == 0) __builtin_prefetch(w + (c + C) * K + k);
      for (int r = 0; r < R; ++r) total[c][r] += weights * inputs[r];
    }
  }
  for (int c = 0; c < C; ++c)
    for (int r = 0; r < R; ++r) y[r * O + c] = sum(total[c][r]);
}

// x float [M, K], w bfloat16 [O, K] -> float [M, O]; O a multiple of 4, K of 8
at::Tensor bfloat16_linear(const at::Tensor& x, const at::Tensor& w) {
  const int64_t M = x.size(0), K = x.size(1), O = w.size(0);
  TORCH_CHECK(x.scalar_type() == at::kFloat && w.scalar_type() == at::kBFloat16 && w.size(1) == K);
  TORCH_CHECK(x.is_contiguous() && w.is_contiguous() && K % 8 == 0 && O % 4 == 0);
  at::Tensor y = at::empty({M, O}, x.options());
  const float* from = x.const_data_ptr<float>();
  const c10::BFloat16* weights = w.const_data_ptr<c10::BFloat16>();
  float* out = y.data_ptr<float>();
  share(O / 4, BLOCKS, [&](int64_t begin, int64_t end) {
    for (int64_t o = 4 * begin; o < 4 * end; o += 4) {
      int64_t m = 0;
      for (; m + 4 <= M; m += 4) {
        bfloat16_tile<4, 2>(from + m * K, weights + o * K, out + m * O + o, K, O);
        bfloat16_tile<4, 2>(from + m * K, weights + (o + 2) * K, out + m * O + o + 2, K, O);
      }
      for (; m + 2 <= M; m += 2) bfloat16_tile<2, 4>(from + m * K, weights + o * K, out + m * O + o, K, O);
      if (m < M) bfloat16_tile<1, 4>(from + m * K, weights + o * K, out + m * O + o, K, O);
    }
  });
  return y;
}

// e^x for x <= 0: 2^n * e^r with |r| <= ln(2)/2, relative error below 1e-6
inline Float8 exponential(Float8 x) {
  x = x < -87.0f ? splat(-87.0f) : x;
  const Float8 t = x * 1.44269504f - 0.5f;
  const Int8 n = __builtin_convertvector(t, Int8);  // truncates towards zero: rounds x / ln(2), as t <= -0.5
  const Float8 r = x - __builtin_convertvector(n, Float8) * 0.693147181f;
  Float8 p = splat(1.0f / 720);
  for (const float c : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = p * r + c;
  const Int8 power = (n + 127) << 23;
  return p * load<Float8>(&power);
}

// Positions s..s+3 of keys or values; past the end, the last one again.
template <typename T>
struct Four {
  const T* row[4];

  Four(const T* rows, int64_t s, int64_t n, int64_t stride) {
    for (int64_t i = 0; i < 4; ++i) row[i] = rows + (s + std::min(i, n - 1)) * stride;
  }

  Float8 at(int i, int64_t k) const {
    if (k % (64 / sizeof(T)) == 0) __builtin_prefetch(row[i] + k + PREFETCH / sizeof(T));
    return load8(row[i] + k);
  }
};

// The G query heads that share one key head of one row: q [G, K] -> y [G, K], over the first S positions. Four positions
// at a time: independent sums hide the latency of one, and y is read and written a quarter as often.
template <typename T>
void attend_group(const float* q, const T* keys, const T* values, float* y, int64_t G, int64_t S, int64_t K,
                  int64_t key_stride, int64_t value_stride, std::vector<float>& weight) {
  const int64_t padded = (S + 7) / 8 * 8;
  weight.assign(G * padded, -1e30f);
  const float scale = 1 / std::sqrt(float(K));
  for (int64_t s = 0; s < S; s += 4) {
    const int64_t n = std::min<int64_t>(4, S - s);
    const Four<T> key(keys, s, n, key_stride);
    for (int64_t g = 0; g < G; ++g) {
      Float8 total[4] = {};
      for (int64_t k = 0; k < K; k += 8) {
        const Float8 query = load8(q + g * K + k);
        for (int i = 0; i < 4; ++i) total[i] += query * key.at(i, k);
      }
      for (int64_t i = 0; i < n; ++i) weight[g * padded + s + i] = sum(total[i]) * scale;
    }
  }
  for (int64_t g = 0; g < G; ++g) {
    float* w = weight.data() + g * padded;
    const float largest = *std::max_element(w, w + S);
    Float8 total = {};
    for (int64_t s = 0; s < padded; s += 8) {
      const Float8 e = exponential(load8(w + s) - largest);
      std::memcpy(w + s, &e, sizeof e);
      total += e;
    }
    const float inverse = 1 / sum(total);
    for (int64_t s = 0; s < padded; ++s) w[s] = s < S ? w[s] * inverse : 0;
    std::fill(y + g * K, y + (g + 1) * K, 0.0f);
  }
  for (int64_t s = 0; s < S; s += 4) {
    const Four<T> value(values, s, std::min<int64_t>(4, S - s), value_stride);
    for (int64_t g = 0; g < G; ++g) {
      const float* w = weight.data() + g * padded + s;
      for (int64_t k = 0; k < K; k += 8) {
        Float8 next = load8(y + g * K + k);
        for (int i = 0; i < 4; ++i) next += w[i] * value.at(i, k);
        std::memcpy(y + g * K + k, &next, sizeof next);
      }
    }
  }
}

template <typename T>
void attend_rows(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values, const at::Tensor& length,
                 at::Tensor& out) {
  const int64_t B = q.size(0), N = q.size(1), H = q.size(2), K = q.size(3), heads = keys.size(1), G = H / heads;
  const float* q_data = q.const_data_ptr<float>();
  const T* k_data = keys.const_data_ptr<T>();
  const T* v_data = values.const_data_ptr<T>();
  const int64_t* lengths = length.const_data_ptr<int64_t>();
  float* y = out.data_ptr<float>();
  share(B * heads, 2, [&](int64_t begin, int64_t end) {
    std::vector<float> weight;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / heads, h = i % heads;
      const T* k = k_data + b * keys.stride(0) + h * keys.stride(1);
      const T* v = v_data + b * values.stride(0) + h * values.stride(1);
      for (int64_t n = b * N; n < (b + 1) * N; ++n) {
        const int64_t at = (n * H + h * G) * K;
        attend_group<T>(q_data + at, k, v, y + at, G, lengths[n], K, keys.stride(2), values.stride(2), weight);
      }
    }
  });
}

// q float [B, T, H, K]; keys and values [B, Hkv, S, K] in float or bfloat16, dense in K; length int64 [B, T]
// -> [B, T, H, K]: softmax(q k / sqrt(K)) v over the first length[b, t] positions of row b
at::Tensor decode_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                            const at::Tensor& length) {
  TORCH_CHECK(q.dim() == 4 && keys.dim() == 4 && values.sizes() == keys.sizes() && q.size(2) % keys.size(1) == 0);
  TORCH_CHECK(keys.stride(3) == 1 && values.stride(3) == 1 && q.size(3) % 8 == 0 && length.is_contiguous());
  TORCH_CHECK(q.scalar_type() == at::kFloat && values.scalar_type() == keys.scalar_type());
  const at::Tensor dense = q.contiguous();
  at::Tensor out = at::empty_like(dense);
  if (keys.scalar_type() == at::kFloat)
    attend_rows<float>(dense, keys, values, length, out);
  else
    attend_rows<c10::BFloat16>(dense, keys, values, length, out);
  return out;
}

}  // namespace

TORCH_LIBRARY(openjanus, m) {
  m.def("linear_int8(Tensor x, Tensor w, Tensor scale) -> Tensor");
  m.def("linear_int4(Tensor x, Tensor w, Tensor scale) -> Tensor");
  m.def("linear_bfloat16(Tensor x, Tensor w) -> Tensor");
  m.def("decode_attention(Tensor q, Tensor keys, Tensor values, Tensor length) -> Tensor");
}

TORCH_LIBRARY_IMPL(openjanus, CPU, m) {
  m.impl("linear_int8", &packed_linear<8>);
  m.impl("linear_int4", &packed_linear<4>);
  m.impl("linear_bfloat16", &bfloat16_linear);
  m.impl("decode_attention", &decode_attention);
}
