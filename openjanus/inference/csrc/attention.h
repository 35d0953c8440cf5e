// Attention of one new position over the rows of a KV cache, read at the speed of memory.
#pragma once

#include <vector>

#include "vectors.h"

namespace {

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
        if (k % (64 / sizeof(T)) == 0) __builtin_prefetch(key[i] + k + PREFETCH / sizeof(T), 0, 0);
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
      if (c * LANES % (64 / sizeof(T)) == 0) __builtin_prefetch(value + c * LANES + PREFETCH / sizeof(T), 0, 0);
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

}  // namespace
