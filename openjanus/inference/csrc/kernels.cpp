// What a decode step is made of, on the CPU, at the speed of memory:
//
//   linear_*           x W^T for few rows x, with W in 16, 8 or 4 bits a weight          products.h
//   decode_*           all layers of the body for a few new positions of a KV cache      body.h, attention.h
//
// A step reads every weight and every remembered position once and computes little with it; torch's own kernels for
// these shapes read them several times slower than memory delivers (docs/speed.md has the figures). Built at first use
// (openjanus/inference/kernels.py); the plain torch formulas are held against these by tests.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/clone.h>
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

// A matrix for inputs of width K, checked. scale: ignored in 16 bits.
template <int BITS>
Matrix matrix(const at::Tensor& w, const at::Tensor* scale, int64_t K) {
  const int64_t O = BITS == 16 ? w.size(0) : w.size(0) * BLOCK;
  TORCH_CHECK(w.is_contiguous() && w.nbytes() == size_t(O * K * BITS / 8) && O % BLOCK == 0 && K % GROUP == 0);
  if (BITS == 16) {
    TORCH_CHECK(w.scalar_type() == at::kBFloat16);
    return {static_cast<const char*>(w.const_data_ptr()), nullptr, nullptr, O};
  }
  TORCH_CHECK(scale->is_contiguous() && scale->numel() == (BITS == 4 ? O * K / GROUP : O));
  TORCH_CHECK(w.scalar_type() == at::kByte && scale->scalar_type() == (BITS == 4 ? at::kBFloat16 : at::kFloat));
  return {static_cast<const char*>(w.const_data_ptr()), static_cast<const char*>(scale->const_data_ptr()), nullptr, O};
}

// x float [M, K], matrices as in products.h -> float [M, O] each. x is rounded once for all.
template <int BITS>
std::vector<at::Tensor> linear(const at::Tensor& x, at::TensorList w, at::TensorList scale) {
  constexpr int64_t BLOCKS = 16;  // of weights that a thread takes at once
  const int64_t M = x.size(0), K = x.size(1);
  TORCH_CHECK(x.scalar_type() == at::kFloat && x.is_contiguous());
  TORCH_CHECK(BITS == 16 || w.size() == scale.size());
  std::vector<at::Tensor> y;
  std::vector<Matrix> matrices;
  std::vector<int64_t> first{0};  // of each matrix, in blocks
  for (size_t i = 0; i < w.size(); ++i) {
    matrices.push_back(matrix<BITS>(w[i], BITS == 16 ? nullptr : &scale[i], K));
    y.push_back(at::empty({M, matrices[i].O}, x.options()));
    first.push_back(first.back() + matrices[i].O / BLOCK);
  }
  const float* from = x.const_data_ptr<float>();
  Activations<BITS> inputs(M, K);
  at::parallel_for(0, M, std::max<int64_t>(1, 131072 / K), [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) inputs.set(m, 0, from + m * K, K);
  });
  share(first.back(), BLOCKS, [&](int64_t begin, int64_t end) {
    for (int64_t m = 0; m < M; m += ROWS)
      for (int64_t b = begin; b < end; ++b) {
        const int64_t i = std::upper_bound(first.begin(), first.end(), b) - first.begin() - 1, O = matrices[i].O;
        float* out = y[i].data_ptr<float>() + m * O + (b - first[i]) * BLOCK;
        product<BITS>(inputs, m, std::min(m + ROWS, M), matrices[i], b - first[i], out, O);
      }
  });
  return y;
}

std::vector<at::Tensor> linear_bfloat16(const at::Tensor& x, at::TensorList w) { return linear<16>(x, w, {}); }

constexpr int64_t NORMS = 4, MATRICES = 7;

// norms: of each layer attention, ffn, q and k; matrices, scales and biases: of each layer q, k, v, out, gate, up, down.
// What a layer does not have is empty.
template <int BITS>
std::vector<LayerWeights> layer_weights(at::TensorList norms, at::TensorList matrices, at::TensorList scales,
                                        at::TensorList biases) {
  const int64_t L = norms.size() / NORMS;
  TORCH_CHECK(int64_t(matrices.size()) == L * MATRICES && biases.size() == matrices.size());
  const auto floats = [](const at::Tensor& t) -> const float* {
    TORCH_CHECK(t.scalar_type() == at::kFloat && t.is_contiguous());
    return t.numel() ? t.const_data_ptr<float>() : nullptr;
  };
  std::vector<LayerWeights> layers(L);
  for (int64_t l = 0; l < L; ++l) {
    LayerWeights& w = layers[l];
    w.attention_norm = floats(norms[l * NORMS]), w.ffn_norm = floats(norms[l * NORMS + 1]);
    w.q_norm = floats(norms[l * NORMS + 2]), w.k_norm = floats(norms[l * NORMS + 3]);
    const int64_t width = norms[l * NORMS].numel();
    Matrix* const all[MATRICES] = {&w.q, &w.k, &w.v, &w.out, &w.gate, &w.up, &w.down};
    for (int64_t i = 0; i < MATRICES; ++i) {
      const int64_t at = l * MATRICES + i, K = all[i] == &w.out ? w.q.O : all[i] == &w.down ? w.gate.O : width;
      *all[i] = matrix<BITS>(matrices[at], BITS == 16 ? nullptr : &scales[at], K);
      all[i]->bias = floats(biases[at]);
    }
    TORCH_CHECK(w.k.O == w.v.O && w.gate.O == w.up.O && w.out.O == width && w.down.O == width);
  }
  return layers;
}

// x float [B, T, width], cosine and sine float [B, T, K], position int64 [B, T]; keys and values [L, B, Hkv, S, K]
// -> [B, T, width], before the last norm. Row b of the cache holds all positions before position[b, 0].
template <int BITS>
at::Tensor decode(const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine, const at::Tensor& position,
                  const at::Tensor& keys, const at::Tensor& values, at::TensorList norms, at::TensorList matrices,
                  at::TensorList scales, at::TensorList biases, double eps) {
  const int64_t B = x.size(0), T = x.size(1), K = keys.size(4);
  const std::vector<LayerWeights> layers = layer_weights<BITS>(norms, matrices, scales, biases);
  TORCH_CHECK(x.scalar_type() == at::kFloat && x.dim() == 3 && position.is_contiguous() && position.numel() == B * T);
  TORCH_CHECK(cosine.is_contiguous() && sine.is_contiguous() && cosine.numel() == B * T * K && sine.numel() == B * T * K);
  TORCH_CHECK(keys.dim() == 5 && keys.size(0) == int64_t(layers.size()) && keys.size(1) == B && keys.stride(4) == 1);
  TORCH_CHECK(values.sizes() == keys.sizes() && values.strides() == keys.strides() && K % 16 == 0);
  TORCH_CHECK(values.scalar_type() == keys.scalar_type() && layers[0].k.O == keys.size(2) * K);
  TORCH_CHECK(layers[0].q.O % layers[0].k.O == 0 && layers[0].q.O / keys.size(2) % GROUP == 0);
  at::Tensor out = x.clone(at::MemoryFormat::Contiguous);
  std::vector<int64_t> row(B * T);
  for (int64_t n = 0; n < B * T; ++n) row[n] = n / T;
  const auto run = [&](auto* k, auto* v) {
    const Step<std::remove_pointer_t<decltype(k)>> step{
        B * T, x.size(2), layers[0].q.O / K, keys.size(2), K, layers[0].gate.O, float(eps), row.data(),
        position.const_data_ptr<int64_t>(), cosine.const_data_ptr<float>(), sine.const_data_ptr<float>(), k, v,
        keys.stride(0), keys.stride(1), keys.stride(2), keys.stride(3)};
    run_layers<BITS>(step, layers, out.data_ptr<float>());
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
  m.def("linear_bfloat16(Tensor x, Tensor[] w) -> Tensor[]");
  m.def("linear_int8(Tensor x, Tensor[] w, Tensor[] scale) -> Tensor[]");
  m.def("linear_int4(Tensor x, Tensor[] w, Tensor[] scale) -> Tensor[]");
  m.def("decode_bfloat16" DECODE);
  m.def("decode_int8" DECODE);
  m.def("decode_int4" DECODE);
}

TORCH_LIBRARY_IMPL(openjanus, CPU, m) {
  m.impl("linear_bfloat16", &linear_bfloat16);
  m.impl("linear_int8", &linear<8>);
  m.impl("linear_int4", &linear<4>);
  m.impl("decode_bfloat16", &decode<16>);
  m.impl("decode_int8", &decode<8>);
  m.impl("decode_int4", &decode<4>);
}
