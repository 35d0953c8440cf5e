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
// Packed layout: output channels in blocks of 16, inputs k in groups of 32. In a group, vector s holds for each of the
// 16 channels the four inputs 4s..4s+3: [O/16][K/32][8 vectors][16 channels][4 inputs], as w + 128. In 4 bits, byte
// vector s of 4 holds vector s in its low and vector s + 4 in its high nibbles, as w + 8. Activations are rounded to 8
// bits a group, with a scale for each group; sums within a group are exact integers.

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
#include <memory>
#include <vector>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace {

// BLOCK: output channels that are stored together. ROWS: activations that stay in the L2 cache. BLOCKS: of weights that a
// thread takes at once. PREFETCH: bytes ahead.
constexpr int64_t BLOCK = 16, GROUP = 32, ROWS = 128, BLOCKS = 16, PREFETCH = 4096;

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

// Joins all lanes: each meets the one that is 8, 4, 2 and 1 away.
template <typename F>
inline float reduce(Floats v, const F& join) {
#ifdef __AVX512F__
  v = join(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  v = join(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  v = join(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  v = join(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
#else
  v = join(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
  v = join(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5));
  v = join(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6));
#endif
  return v[0];
}

inline float sum(Floats v) {
  return reduce(v, [](Floats a, Floats b) { return a + b; });
}

inline float largest(Floats v) {
  return reduce(v, [](Floats a, Floats b) { return a > b ? a : b; });
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

#if defined(__AVX512VNNI__) && defined(__AVX512F__)
#define DPBUSD(sum, a, b) (Ints) _mm512_dpbusd_epi32((__m512i)(sum), (__m512i)(a), (__m512i)(b))
#elif defined(__AVXVNNI__)
#define DPBUSD(sum, a, b) (Ints) _mm256_dpbusd_avx_epi32((__m256i)(sum), (__m256i)(a), (__m256i)(b))
#endif

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
#elif defined(__AVX2__)  // 16 bits hold all 8 pairs of 15 * 127: widen once. They hold one pair of 127 * 127, unsigned
    // times signed, so there w x = |w| (sign(w) x).
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i pairs = _mm256_setzero_si256(), wide = BITS == 4 ? (__m256i)sum : pairs;
    for (int s = 0; s < 8; ++s) {
      const __m256i inputs = _mm256_set1_epi32(load<int32_t>(x + 4 * s));
      if constexpr (BITS == 4) {
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16((__m256i)w[s], inputs));
      } else {
        const __m256i weight = (__m256i)(w[s] ^ 128);
        const __m256i product = _mm256_maddubs_epi16(_mm256_abs_epi8(weight), _mm256_sign_epi8(inputs, weight));
        wide = _mm256_add_epi32(wide, _mm256_madd_epi16(product, ones));
      }
    }
    sum = (Ints)(BITS == 4 ? _mm256_add_epi32(wide, _mm256_madd_epi16(pairs, ones)) : wide);
#else
    for (int s = 0; s < 8; ++s)
      for (int c = 0; c < LANES; ++c)
        for (int i = 0; i < 4; ++i) sum[c] += int32_t(w[s][4 * c + i]) * x[4 * s + i];
#endif
    return sum;
  }
};

// Activations in 8 bits: q [M, K], scale [M, K/32], and the sum of each group times what weights are moved by.
struct Rounded {
  std::unique_ptr<int8_t[]> q;
  std::unique_ptr<float[]> scale;
  std::unique_ptr<int32_t[]> moved;

  Rounded(const float* x, int64_t M, int64_t K, int32_t offset)
      : q(new int8_t[M * K]), scale(new float[M * K / GROUP]), moved(new int32_t[M * K / GROUP]) {
    at::parallel_for(0, M * K / GROUP, 4096, [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) round_group(x + g * GROUP, g, offset);
    });
  }

  void round_group(const float* from, int64_t g, int32_t offset) {
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
    moved[g] = offset * all;
  }
};

// y [R rows, LANES channels] for R rows that begin at row m; w, scale and y begin at the first of the channels.
template <int BITS, int R>
void packed_tile(const Rounded& x, int64_t m, const uint8_t* w, const void* scale, float* y, int64_t K, int64_t O) {
  const int64_t groups = K / GROUP;
  Floats total[R] = {};
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t i = 0; i < Group<BITS>::BYTES; i += 64) __builtin_prefetch(w + g * Group<BITS>::BYTES + i + PREFETCH);
    const Group<BITS> weights(w + g * Group<BITS>::BYTES);
    Floats weight_scale = {};
    if constexpr (BITS == 4) weight_scale = load_floats(static_cast<const c10::BFloat16*>(scale) + g * BLOCK);
    for (int r = 0; r < R; ++r) {
      const int64_t at = (m + r) * groups + g;
      const Floats product = __builtin_convertvector(weights.dot(&x.q[at * GROUP], x.moved[at]), Floats);
      total[r] += product * (BITS == 4 ? weight_scale * x.scale[at] : Floats{} + x.scale[at]);
    }
  }
  for (int r = 0; r < R; ++r) {
    if constexpr (BITS == 8) total[r] *= load_floats(static_cast<const float*>(scale));
    std::memcpy(y + (m + r) * O, &total[r], sizeof(Floats));
  }
}

// One matrix of a product: w and scale as packed, y float [M, O].
struct Packed {
  const uint8_t* w;
  const char* scale;
  float* y;
  int64_t O;
};

template <int BITS>
void packed_block(const Rounded& x, int64_t begin, int64_t end, const Packed& p, int64_t block, int64_t K) {
  constexpr int64_t SCALE_BYTES = BITS == 4 ? sizeof(c10::BFloat16) : sizeof(float);
  const uint8_t* w = p.w + block * (K / GROUP) * Group<BITS>::BYTES;
  const char* scale = p.scale + block * BLOCK * (BITS == 4 ? K / GROUP : 1) * SCALE_BYTES;
  float* y = p.y + block * BLOCK;
  for (int64_t c = 0; c < BLOCK; c += LANES) {
    const uint8_t* wc = w + 4 * c;
    const char* sc = scale + c * SCALE_BYTES;
    int64_t m = begin;
    for (; m + 8 <= end; m += 8) packed_tile<BITS, 8>(x, m, wc, sc, y + c, K, p.O);
    for (; m + 4 <= end; m += 4) packed_tile<BITS, 4>(x, m, wc, sc, y + c, K, p.O);
    for (; m + 2 <= end; m += 2) packed_tile<BITS, 2>(x, m, wc, sc, y + c, K, p.O);
    if (m < end) packed_tile<BITS, 1>(x, m, wc, sc, y + c, K, p.O);
  }
}

// x float [M, K]; for each matrix w as above, scale float [O] in 8 bits or bfloat16 [O/16, K/32, 16] in 4 bits
// -> float [M, O] each. x is rounded once for all.
template <int BITS>
std::vector<at::Tensor> packed_linear(const at::Tensor& x, at::TensorList w, at::TensorList scale) {
  const int64_t M = x.size(0), K = x.size(1);
  TORCH_CHECK(x.scalar_type() == at::kFloat && x.is_contiguous() && K % GROUP == 0 && w.size() == scale.size());
  std::vector<at::Tensor> y;
  std::vector<Packed> matrices;
  std::vector<int64_t> first{0};  // of each matrix, in blocks
  for (size_t i = 0; i < w.size(); ++i) {
    const int64_t O = w[i].size(0) * BLOCK;
    TORCH_CHECK(w[i].is_contiguous() && scale[i].is_contiguous() && w[i].numel() == O * K * BITS / 8);
    TORCH_CHECK(scale[i].numel() == (BITS == 4 ? O * K / GROUP : O));
    y.push_back(at::empty({M, O}, x.options()));
    matrices.push_back({static_cast<const uint8_t*>(w[i].const_data_ptr()),
                        static_cast<const char*>(scale[i].const_data_ptr()), y.back().data_ptr<float>(), O});
    first.push_back(first.back() + O / BLOCK);
  }
  const Rounded rounded(x.const_data_ptr<float>(), M, K, Group<BITS>::OFFSET);
  share(first.back(), BLOCKS, [&](int64_t begin, int64_t end) {
    for (int64_t m = 0; m < M; m += ROWS)
      for (int64_t b = begin; b < end; ++b) {
        const int64_t i = std::upper_bound(first.begin(), first.end(), b) - first.begin() - 1;
        packed_block<BITS>(rounded, m, std::min(m + ROWS, M), matrices[i], b - first[i], K);
      }
  });
  return y;
}

// y [R rows, C channels]: enough independent sums to hide the latency of one.
template <int R, int C>
void bfloat16_tile(const float* x, const c10::BFloat16* w, float* y, int64_t K, int64_t O) {
  Floats total[C][R] = {};
  for (int64_t k = 0; k < K; k += LANES) {
    Floats inputs[R];
    for (int r = 0; r < R; ++r) inputs[r] = load_floats(x + r * K + k);
    for (int c = 0; c < C; ++c) {
      const Floats weights = load_floats(w + c * K + k);
      if (k % 32 == 0) __builtin_prefetch(w + (c + C) * K + k);
      for (int r = 0; r < R; ++r) total[c][r] += weights * inputs[r];
    }
  }
  for (int c = 0; c < C; ++c)
    for (int r = 0; r < R; ++r) y[r * O + c] = sum(total[c][r]);
}

template <int R, int C>
void bfloat16_rows(const float* x, const c10::BFloat16* w, float* y, int64_t K, int64_t O) {
  for (int64_t c = 0; c < 8; c += C) bfloat16_tile<R, C>(x, w + c * K, y + c, K, O);
}

// x float [M, K], w bfloat16 [O, K] each -> float [M, O] each; O a multiple of 8, K of 16
std::vector<at::Tensor> bfloat16_linear(const at::Tensor& x, at::TensorList w) {
  const int64_t M = x.size(0), K = x.size(1);
  TORCH_CHECK(x.scalar_type() == at::kFloat && x.is_contiguous() && K % 16 == 0);
  std::vector<at::Tensor> all;
  for (const at::Tensor& matrix : w) {
    const int64_t O = matrix.size(0);
    TORCH_CHECK(matrix.scalar_type() == at::kBFloat16 && matrix.size(1) == K && matrix.is_contiguous() && O % 8 == 0);
    all.push_back(at::empty({M, O}, x.options()));
    const float* from = x.const_data_ptr<float>();
    const c10::BFloat16* weights = matrix.const_data_ptr<c10::BFloat16>();
    float* out = all.back().data_ptr<float>();
    share(O / 8, BLOCKS, [&](int64_t begin, int64_t end) {
      for (int64_t o = 8 * begin; o < 8 * end; o += 8) {
        int64_t m = 0;
        for (; m + 4 <= M; m += 4) bfloat16_rows<4, 2>(from + m * K, weights + o * K, out + m * O + o, K, O);
        for (; m + 2 <= M; m += 2) bfloat16_rows<2, 4>(from + m * K, weights + o * K, out + m * O + o, K, O);
        if (m < M) bfloat16_rows<1, 4>(from + m * K, weights + o * K, out + m * O + o, K, O);
      }
    });
  }
  return all;
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

// weight[s] = q . keys[s], four positions at a time: independent sums hide the latency of one.
template <typename T>
void scores(const float* q, const T* keys, float* weight, int64_t S, int64_t K, int64_t stride, float scale) {
  for (int64_t s = 0; s < S; s += 4) {
    const int64_t n = std::min<int64_t>(4, S - s);
    const T* key[4];
    for (int64_t i = 0; i < 4; ++i) key[i] = keys + (s + std::min(i, n - 1)) * stride;
    Floats total[4] = {};
    for (int64_t k = 0; k < K; k += LANES) {
      const Floats query = load_floats(q + k);
      for (int i = 0; i < 4; ++i) {
        if (k % (64 / sizeof(T)) == 0) __builtin_prefetch(key[i] + k + PREFETCH / sizeof(T));
        total[i] += query * load_floats(key[i] + k);
      }
    }
    for (int64_t i = 0; i < n; ++i) weight[s + i] = sum(total[i]) * scale;
  }
}

// y = sum over s of weight[s] values[s], C vectors of it in registers at a time.
template <int C, typename T>
void mix(const float* weight, const T* values, float* y, int64_t S, int64_t stride) {
  Floats total[C] = {};
  for (int64_t s = 0; s < S; ++s) {
    const T* value = values + s * stride;
    for (int c = 0; c < C; ++c) {
      if (c * LANES % (64 / sizeof(T)) == 0) __builtin_prefetch(value + c * LANES + PREFETCH / sizeof(T));
      total[c] += weight[s] * load_floats(value + c * LANES);
    }
  }
  std::memcpy(y, total, sizeof total);
}

// The G query heads that share one key head of one row: q [G, K] -> y [G, K], over the first S positions.
template <typename T>
void attend_group(const float* q, const T* keys, const T* values, float* y, int64_t G, int64_t S, int64_t K,
                  int64_t key_stride, int64_t value_stride, std::vector<float>& weight) {
  const int64_t padded = (S + LANES - 1) / LANES * LANES;
  weight.resize(padded);
  for (int64_t g = 0; g < G; ++g) {
    scores(q + g * K, keys, weight.data(), S, K, key_stride, 1 / std::sqrt(float(K)));
    std::fill(weight.begin() + S, weight.end(), -1e30f);
    Floats most = load_floats(weight.data()), total = {};
    for (int64_t s = 0; s < padded; s += LANES) {
      const Floats w = load_floats(weight.data() + s);
      most = w > most ? w : most;
    }
    const float bound = largest(most);
    for (int64_t s = 0; s < padded; s += LANES) {
      const Floats e = exponential(load_floats(weight.data() + s) - bound);
      std::memcpy(weight.data() + s, &e, sizeof e);
      total += e;
    }
    const float inverse = 1 / sum(total);
    for (int64_t s = 0; s < S; ++s) weight[s] *= inverse;
    int64_t k = 0;
    for (; k + 8 * LANES <= K; k += 8 * LANES) mix<8>(weight.data(), values + k, y + g * K + k, S, value_stride);
    for (; k < K; k += LANES) mix<1>(weight.data(), values + k, y + g * K + k, S, value_stride);
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
        attend_group(q_data + at, k, v, y + at, G, lengths[n], K, keys.stride(2), values.stride(2), weight);
      }
    }
  });
}

// q float [B, T, H, K]; keys and values [B, Hkv, S, K] in float or bfloat16, dense in K; length int64 [B, T]
// -> [B, T, H, K]: softmax(q k / sqrt(K)) v over the first length[b, t] positions of row b
at::Tensor decode_attention(const at::Tensor& q, const at::Tensor& keys, const at::Tensor& values,
                            const at::Tensor& length) {
  TORCH_CHECK(q.dim() == 4 && keys.dim() == 4 && values.sizes() == keys.sizes() && q.size(2) % keys.size(1) == 0);
  TORCH_CHECK(keys.stride(3) == 1 && values.stride(3) == 1 && q.size(3) % 16 == 0 && length.is_contiguous());
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
  m.def("linear_int8(Tensor x, Tensor[] w, Tensor[] scale) -> Tensor[]");
  m.def("linear_int4(Tensor x, Tensor[] w, Tensor[] scale) -> Tensor[]");
  m.def("linear_bfloat16(Tensor x, Tensor[] w) -> Tensor[]");
  m.def("decode_attention(Tensor q, Tensor keys, Tensor values, Tensor length) -> Tensor");
}

TORCH_LIBRARY_IMPL(openjanus, CPU, m) {
  m.impl("linear_int8", &packed_linear<8>);
  m.impl("linear_int4", &packed_linear<4>);
  m.impl("linear_bfloat16", &bfloat16_linear);
  m.impl("decode_attention", &decode_attention);
}
