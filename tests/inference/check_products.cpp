// Products of csrc against plain loops, for the processor that the compiler is told to build for (test_compilers.py).
// Exit code 77: this machine cannot run it.
#include <cstdio>
#include <random>

#include "body.h"

namespace {

using Layers = std::vector<LayerWeights>;
template void run_layers<float>(const Step<float>&, const Layers&, const float*, float*);
template void run_layers<c10::Half>(const Step<c10::BFloat16>&, const Layers&, const float*, float*);
template void run_layers<c10::BFloat16>(const Step<c10::BFloat16>&, const Layers&, const float*, float*);
template void run_layers<Packed<8>>(const Step<c10::BFloat16>&, const Layers&, const float*, float*);
template void run_layers<Packed<4>>(const Step<float>&, const Layers&, const float*, float*);

constexpr int64_t K = 3 * GROUP, O = 2 * BLOCK;
std::mt19937 noise(0);

int uniform(int low, int high) { return std::uniform_int_distribution<int>(low, high)(noise); }

// whole [O, K] -> as products.h says
std::vector<uint8_t> pack(const std::vector<int>& whole, int bits) {
  std::vector<uint8_t> packed(O * K * bits / 8);
  for (int64_t o = 0; o < O; ++o)
    for (int64_t k = 0; k < K; ++k) {
      const int64_t group = (o / BLOCK * (K / GROUP) + k / GROUP) * GROUP * BLOCK * bits / 8, vector = k % GROUP / 4;
      const int64_t place = o % BLOCK * 4 + k % 4;
      if (bits == 8)
        packed[group + vector * 4 * BLOCK + place] = whole[o * K + k] + 128;
      else
        packed[group + vector % 4 * 4 * BLOCK + place] |= (whole[o * K + k] + 8) << (vector < 4 ? 0 : 4);
    }
  return packed;
}

// size: of the sum that it is, every term taken as positive.
bool is_near(double got, double expected, double size, int64_t m, int64_t M, int64_t o) {
  if (std::abs(got - expected) <= 1e-5 * size) return true;
  std::printf("row %ld of %ld, channel %ld: %g instead of %g\n", long(m), long(M), long(o), got, expected);
  return false;
}

// extreme: all numbers as large as they may be.
template <int BITS>
bool is_right(int64_t M, bool extreme) {
  std::vector<float> x(M * K), scale8(O), y(M * O);
  std::vector<int> whole(O * K);
  std::vector<c10::BFloat16> scale4(O * K / GROUP);
  constexpr int most = (1 << (BITS - 1)) - 1, least = BITS == 8 ? -most : -most - 1;
  for (float& v : x) v = extreme ? (uniform(0, 1) ? 1 : -1) : uniform(-1000, 1000) / 300.0f;
  for (int& w : whole) w = extreme ? (uniform(0, 1) ? most : least) : uniform(least, most);
  for (float& s : scale8) s = uniform(1, 100) / 64.0f;
  for (c10::BFloat16& s : scale4) s = uniform(1, 100) / 64.0f;
  const std::vector<uint8_t> packed = pack(whole, BITS);
  const char* scale = BITS == 8 ? (const char*)scale8.data() : (const char*)scale4.data();
  const Matrix matrix{(const char*)packed.data(), scale, nullptr, O};

  Activations<Packed<BITS>> inputs(M, K);
  for (int64_t m = 0; m < M; ++m) inputs.set(m, 0, &x[m * K], K);
  for (int64_t b = 0; b < O / BLOCK; ++b) product<Packed<BITS>>(inputs, 0, M, matrix, b, &y[b * BLOCK], O);
  for (int64_t m = 0; m < M; ++m)
    for (int64_t o = 0; o < O; ++o) {
      double expected = 0, size = 0;
      for (int64_t k = 0; k < K; ++k) {
        const int64_t group = (m * K + k) / GROUP, at = (o / BLOCK * (K / GROUP) + k / GROUP) * BLOCK + o % BLOCK;
        const double weight = whole[o * K + k] * double(BITS == 8 ? scale8[o] : float(scale4[at]));
        const double term = weight * inputs.q[m * K + k] * inputs.scale[group];
        expected += term, size += std::abs(term);
      }
      if (!is_near(y[m * O + o], expected, size, m, M, o)) return false;
    }
  return true;
}

// Weights as W stores them: what is computed with is what was stored.
template <typename W>
bool is_right(int64_t M) {
  std::vector<float> x(M * K), y(M * O);
  std::vector<W> weights(O * K);
  for (float& v : x) v = uniform(-1000, 1000) / 300.0f;
  for (W& w : weights) w = uniform(-1000, 1000) / 300.0f;
  const Matrix matrix{(const char*)weights.data(), nullptr, nullptr, O};
  Activations<W> inputs(M, K);
  for (int64_t m = 0; m < M; ++m) inputs.set(m, 0, &x[m * K], K);
  for (int64_t b = 0; b < O / BLOCK; ++b) product<W>(inputs, 0, M, matrix, b, &y[b * BLOCK], O);
  for (int64_t m = 0; m < M; ++m)
    for (int64_t o = 0; o < O; ++o) {
      double expected = 0, size = 0;
      for (int64_t k = 0; k < K; ++k) {
        const double term = double(float(weights[o * K + k])) * x[m * K + k];
        expected += term, size += std::abs(term);
      }
      if (!is_near(y[m * O + o], expected, size, m, M, o)) return false;
    }
  return true;
}

bool can_run() {
#if defined(__x86_64__)
  bool can = true;
#define NEEDS(feature) can = can && __builtin_cpu_supports(feature)
#ifdef __AVX2__
  NEEDS("avx2");
#endif
#ifdef __AVX512F__
  NEEDS("avx512f");
#endif
#ifdef __AVX512BW__
  NEEDS("avx512bw");
#endif
#ifdef __AVX512VNNI__
  NEEDS("avx512vnni");
#endif
  return can;
#else
  return true;
#endif
}

}  // namespace

int main() {
  if (!can_run()) return 77;
  for (const int64_t M : {1, 2, 3, 4, 7, 8, 9, 17}) {
    if (!is_right<float>(M) || !is_right<c10::Half>(M) || !is_right<c10::BFloat16>(M)) return 1;
    for (const bool extreme : {false, true})
      if (!is_right<8>(M, extreme) || !is_right<4>(M, extreme)) return 1;
  }
  return 0;
}
