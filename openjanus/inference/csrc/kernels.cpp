// What a decode step is made of, on the CPU, at the speed of memory:
//
//   linear_*           x W^T for few rows x, with W in 32, 16, 8 or 4 bits a weight      products.h
//   decode_*           all layers of the body for a few new positions of a KV cache      body.h, attention.h
//   gelu               between the two products of an adaptor or of the image head       vectors.h
//
// What a row gets does not depend on the rows beside it, nor on the number of threads, to the last bit.
//
// A step reads every weight and every remembered position once and computes little with it; torch's own kernels for
// these shapes read them several times slower than memory delivers (docs/speed.md has the figures). Built at first use
// (openjanus/inference/kernels.py); the plain torch formulas are held against these by tests.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/clone.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "body.h"

namespace {

// Threads take the next `grain` of what is to be done whenever they are free: where cores are shared with others, one
// that is slowed down holds nobody up.
template <typename F>
void share(int64_t total, int64_t grain, const F& work) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    for (int64_t begin; (begin = next.fetch_add(grain)) < total;) work(begin, std::min(begin + grain, total));
  });
}

// Bits that a weight takes, and the type of the tensors that hold weights.
template <typename W>
constexpr int BITS = PACKED_BITS<W> ? PACKED_BITS<W> : 8 * sizeof(W);
template <typename W>
constexpr at::ScalarType STORED = c10::CppTypeToScalarType<W>::value;
template <int B>
constexpr at::ScalarType STORED<Packed<B>> = at::kByte;

// A matrix for inputs of width K, checked. scale: of packed weights only.
template <typename W>
Matrix matrix(const at::Tensor& w, const at::Tensor* scale, int64_t K) {
  const int64_t O = PACKED_BITS<W> ? w.size(0) * BLOCK : w.size(0);
  TORCH_CHECK(w.scalar_type() == STORED<W> && w.is_contiguous(), "a matrix is stored as ", w.scalar_type());
  TORCH_CHECK(O % BLOCK == 0 && K % GROUP == 0 && w.nbytes() == size_t(O * K * BITS<W> / 8), "a matrix of ", w.nbytes(),
              " bytes does not belong to ", O, " outputs and ", K, " inputs, multiples of ", BLOCK, " and ", GROUP);
  const char* data = static_cast<const char*>(w.const_data_ptr());
  if constexpr (PACKED_BITS<W> == 0) return {data, nullptr, nullptr, O};
  TORCH_CHECK(scale->scalar_type() == (BITS<W> == 4 ? at::kBFloat16 : at::kFloat) && scale->is_contiguous() &&
                  scale->numel() == (BITS<W> == 4 ? O * K / GROUP : O),
              scale->numel(), " scales do not belong to ", O, " outputs and ", K, " inputs");
  return {data, static_cast<const char*>(scale->const_data_ptr()), nullptr, O};
}

// x float [M, K], matrices as in products.h -> float [M, O] each. x is rounded once for all.
template <typename W>
std::vector<at::Tensor> linear(const at::Tensor& x, at::TensorList w, at::TensorList scale) {
  constexpr int64_t BLOCKS = 16;  // of weights that a thread takes at once
  TORCH_CHECK(x.scalar_type() == at::kFloat && x.dim() == 2 && x.is_contiguous(), "expected contiguous float [M, K]");
  const int64_t M = x.size(0), K = x.size(1);
  TORCH_CHECK(PACKED_BITS<W> == 0 || w.size() == scale.size(), "expected a scale for each matrix");
  std::vector<at::Tensor> y;
  std::vector<Matrix> matrices;
  std::vector<int64_t> first{0};  // of each matrix, in blocks
  for (size_t i = 0; i < w.size(); ++i) {
    matrices.push_back(matrix<W>(w[i], PACKED_BITS<W> ? &scale[i] : nullptr, K));
    y.push_back(at::empty({M, matrices[i].O}, x.options()));
    first.push_back(first.back() + matrices[i].O / BLOCK);
  }
  const float* from = x.const_data_ptr<float>();
  Activations<W> inputs(M, K);
  at::parallel_for(0, M, std::max<int64_t>(1, 131072 / K), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) inputs.set(m, 0, from + m * K, K);
  });
  share(first.back(), BLOCKS, [&](int64_t begin, int64_t end) {
    for (int64_t m = 0; m < M; m += ROWS)
      for (int64_t b = begin; b < end; ++b) {
        const int64_t i = std::upper_bound(first.begin(), first.end(), b) - first.begin() - 1, O = matrices[i].O;
        float* out = y[i].data_ptr<float>() + m * O + (b - first[i]) * BLOCK;
        product<W>(inputs, m, std::min(m + ROWS, M), matrices[i], b - first[i], out, O);
      }
  });
  return y;
}

template <typename W>
std::vector<at::Tensor> plain_linear(const at::Tensor& x, at::TensorList w) {
  return linear<W>(x, w, {});
}

// By vectors alone, the last one filled up: torch's operation computes what is left behind its vectors in another way,
// and so the last bits of an element depend on where in the tensor it stands.
at::Tensor gelu_each(const at::Tensor& x) {
  TORCH_CHECK(x.scalar_type() == at::kFloat, "expected float");
  const at::Tensor from = x.contiguous(), y = at::empty_like(from);
  const float* in = from.const_data_ptr<float>();
  float* out = y.data_ptr<float>();
  const int64_t total = from.numel();
  at::parallel_for(0, (total + LANES - 1) / LANES, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * LANES; i < std::min(end * LANES, total); i += LANES) {
      const size_t bytes = sizeof(float) * std::min<int64_t>(LANES, total - i);
      Floats v = {};
      std::memcpy(&v, in + i, bytes);
      v = gelu(v);
      std::memcpy(out + i, &v, bytes);
    }
  });
  return y;
}

constexpr int64_t NORMS = 4, MATRICES = 7;

// norms: of each layer attention, ffn, q and k; then the last one; matrices, scales and biases: of each layer q, k, v,
// out, gate, up, down. What a layer does not have is empty. K: width of a head.
template <typename W>
std::vector<LayerWeights> layer_weights(at::TensorList norms, at::TensorList matrices, at::TensorList scales,
                                        at::TensorList biases, int64_t K) {
  const int64_t L = norms.size() / NORMS, width = norms.back().numel();
  TORCH_CHECK(int64_t(norms.size()) == L * NORMS + 1 && int64_t(matrices.size()) == L * MATRICES &&
                  biases.size() == matrices.size() && (PACKED_BITS<W> == 0 || scales.size() == matrices.size()),
              norms.size(), " norms, ", matrices.size(), " matrices, ", scales.size(), " scales and ", biases.size(),
              " biases make no layers");
  const auto floats = [](const at::Tensor& t, int64_t size) -> const float* {
    if (!t.numel()) return nullptr;
    TORCH_CHECK(t.scalar_type() == at::kFloat && t.is_contiguous() && t.numel() == size, "expected ", size,
                " floats as a norm or a bias, got ", t.numel(), " of ", t.scalar_type());
    return t.const_data_ptr<float>();
  };
  std::vector<LayerWeights> layers(L);
  for (int64_t l = 0; l < L; ++l) {
    LayerWeights& w = layers[l];
    w.attention_norm = floats(norms[l * NORMS], width), w.ffn_norm = floats(norms[l * NORMS + 1], width);
    w.q_norm = floats(norms[l * NORMS + 2], K), w.k_norm = floats(norms[l * NORMS + 3], K);
    Matrix* const all[MATRICES] = {&w.q, &w.k, &w.v, &w.out, &w.gate, &w.up, &w.down};
    for (int64_t i = 0; i < MATRICES; ++i) {
      const int64_t at = l * MATRICES + i, inputs = all[i] == &w.out ? w.q.O : all[i] == &w.down ? w.gate.O : width;
      *all[i] = matrix<W>(matrices[at], PACKED_BITS<W> ? &scales[at] : nullptr, inputs);
      all[i]->bias = floats(biases[at], all[i]->O);
    }
    TORCH_CHECK(w.attention_norm && w.ffn_norm && w.q.O == layers[0].q.O && w.k.O == layers[0].k.O && w.k.O == w.v.O &&
                    w.gate.O == layers[0].gate.O && w.gate.O == w.up.O && w.out.O == width && w.down.O == width,
                "the matrices of layer ", l, " do not belong together");
  }
  return layers;
}

// A position is where the kernel writes: one that is not in the cache would be a write anywhere.
void check_positions(const at::Tensor& position, int64_t B, int64_t T, int64_t S) {
  TORCH_CHECK_VALUE(position.scalar_type() == at::kLong && position.is_contiguous() && position.dim() == 2 &&
                        position.size(0) == B && position.size(1) == T,
                    "expected contiguous int64 positions [", B, ", ", T, "], got ", position.scalar_type(), " ",
                    position.sizes());
  const int64_t* p = position.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < B * T; ++n) {
    TORCH_CHECK_VALUE(p[n] >= 0 && p[n] < S, "position ", p[n], " of row ", n / T, " is not in the KV cache, which has ",
                      S, " positions a row: reserve more");
    TORCH_CHECK_VALUE(n % T == 0 || p[n] == p[n - 1] + 1, "row ", n / T, " continues at position ", p[n], " after ",
                      p[n - 1], ", expected one after the other");
  }
}

// x float [B, T, width], cosine and sine float [B, 1, T, K], position int64 [B, T]; keys and values [L, B, Hkv, S, K]
// -> [B, T, width], behind the last norm. Row b of the cache holds all positions before position[b, 0].
template <typename W>
at::Tensor decode(const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine, const at::Tensor& position,
                  const at::Tensor& keys, const at::Tensor& values, at::TensorList norms, at::TensorList matrices,
                  at::TensorList scales, at::TensorList biases, double eps) {
  TORCH_CHECK_VALUE(keys.dim() == 5 && values.sizes() == keys.sizes() && values.strides() == keys.strides() &&
                        values.scalar_type() == keys.scalar_type() && keys.stride(4) == 1,
                    "expected keys and values alike, [L, B, Hkv, S, K]: got ", keys.sizes(), " and ", values.sizes());
  const int64_t K = keys.size(4), heads = keys.size(2), width = norms.empty() ? 0 : norms.back().numel();
  TORCH_CHECK_VALUE(x.scalar_type() == at::kFloat && x.dim() == 3 && x.size(2) == width, "expected float x [B, T, ",
                    width, "], got ", x.scalar_type(), " ", x.sizes());
  const int64_t B = x.size(0), T = x.size(1);
  TORCH_CHECK_VALUE(keys.size(1) == B, B, " rows continue, but the KV cache has ", keys.size(1), " rows here");
  check_positions(position, B, T, keys.size(3));
  for (const at::Tensor* t : {&cosine, &sine})
    TORCH_CHECK(t->scalar_type() == at::kFloat && t->is_contiguous() && t->numel() == B * T * K,
                "expected contiguous float rotary values [", B, ", 1, ", T, ", ", K, "], got ", t->sizes());
  const std::vector<LayerWeights> layers = layer_weights<W>(norms, matrices, scales, biases, K);
  TORCH_CHECK(keys.size(0) == int64_t(layers.size()) && layers[0].k.O == heads * K && layers[0].q.O % (heads * K) == 0,
              "a KV cache of ", keys.sizes(), " does not belong to these layers");
  TORCH_CHECK(K % 16 == 0 && (PACKED_BITS<W> == 0 || layers[0].q.O / heads % GROUP == 0), "heads of width ", K,
              " do not fit this kernel");
  at::Tensor out = x.clone(at::MemoryFormat::Contiguous);
  std::vector<int64_t> row(B * T);
  for (int64_t n = 0; n < B * T; ++n) row[n] = n / T;
  const auto run = [&](auto* k, auto* v) {
    const Step<std::remove_pointer_t<decltype(k)>> step{
        B * T, width, layers[0].q.O / K, heads, K, layers[0].gate.O, float(eps), row.data(),
        position.const_data_ptr<int64_t>(), cosine.const_data_ptr<float>(), sine.const_data_ptr<float>(), k, v,
        keys.stride(0), keys.stride(1), keys.stride(2), keys.stride(3)};
    run_layers<W>(step, layers, norms.back().const_data_ptr<float>(), out.data_ptr<float>());
  };
  if (keys.scalar_type() == at::kFloat)
    run(keys.data_ptr<float>(), values.data_ptr<float>());
  else
    run(keys.data_ptr<c10::BFloat16>(), values.data_ptr<c10::BFloat16>());
  return out;
}

}  // namespace

#define DECODE                                                                                                    \
  "(Tensor x, Tensor cosine, Tensor sine, Tensor position, Tensor(a!) keys, Tensor(b!) values, Tensor[] norms, " \
  "Tensor[] matrices, Tensor[] scales, Tensor[] biases, float eps) -> Tensor"

TORCH_LIBRARY(openjanus, m) {
  m.def("linear_float32(Tensor x, Tensor[] w) -> Tensor[]");
  m.def("linear_float16(Tensor x, Tensor[] w) -> Tensor[]");
  m.def("linear_bfloat16(Tensor x, Tensor[] w) -> Tensor[]");
  m.def("linear_int8(Tensor x, Tensor[] w, Tensor[] scale) -> Tensor[]");
  m.def("linear_int4(Tensor x, Tensor[] w, Tensor[] scale) -> Tensor[]");
  m.def("decode_float32" DECODE);
  m.def("decode_float16" DECODE);
  m.def("decode_bfloat16" DECODE);
  m.def("decode_int8" DECODE);
  m.def("decode_int4" DECODE);
  m.def("gelu(Tensor x) -> Tensor");
}

TORCH_LIBRARY_IMPL(openjanus, CPU, m) {
  m.impl("linear_float32", &plain_linear<float>);
  m.impl("linear_float16", &plain_linear<c10::Half>);
  m.impl("linear_bfloat16", &plain_linear<c10::BFloat16>);
  m.impl("linear_int8", &linear<Packed<8>>);
  m.impl("linear_int4", &linear<Packed<4>>);
  m.impl("decode_float32", &decode<float>);
  m.impl("decode_float16", &decode<c10::Half>);
  m.impl("decode_bfloat16", &decode<c10::BFloat16>);
  m.impl("decode_int8", &decode<Packed<8>>);
  m.impl("decode_int4", &decode<Packed<4>>);
  m.impl("gelu", &gelu_each);
}
