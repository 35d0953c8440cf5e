// The body of a decode step in one go: all layers of a Llama over a few new positions of some rows of a KV cache.
//
// It computes what model/language_model.py does, layer by layer, and is held against it by a test. Between its
// products, a step of separate torch operations spent a fifth of its time in 4 bits (LOG.md): here threads stay together
// for the whole step and meet at a barrier between its phases.
#pragma once

#include <omp.h>

#include <atomic>
#include <thread>
#include <vector>

#include "attention.h"
#include "products.h"

namespace {

// The weights of a layer; norms in float, those of q and k null where there are none.
struct LayerWeights {
  const float *attention_norm, *ffn_norm, *q_norm, *k_norm;
  Matrix q, k, v, out, gate, up, down;
};

// N new positions, one after the other: of row `row[n]` of the cache, position `position[n]`.
template <typename T>
struct Step {
  int64_t N, width, heads, kv_heads, head_width, ffn_width;
  float eps;
  const int64_t *row, *position;
  const float *cosine, *sine;  // [N, head_width]
  T *keys, *values;            // [L, R, kv_heads, S, head_width], dense in head_width
  int64_t layer_stride, row_stride, head_stride, position_stride;
};

// Threads that share the work of one phase after the other.
class Team {
 public:
  Team(int num_threads, int64_t num_phases) : num_threads(num_threads), next(num_phases) {}

  // Called by all threads: takes a part of what is left until nothing is, then waits for the others. Parts get smaller,
  // down to `grain`: large ones are read at the speed of memory, small ones let all threads end together.
  template <typename F>
  void share(int64_t& phase, int64_t total, int64_t grain, const F& work) {
    std::atomic<int64_t>& taken = next[phase++];
    for (int64_t begin = taken.load(); begin < total;) {
      const int64_t end = std::min(begin + std::max(grain, (total - begin) / (PARTS * num_threads)), total);
      if (!taken.compare_exchange_weak(begin, end)) continue;
      work(begin, end);
      begin = taken.load();
    }
    wait();
  }

 private:
  static constexpr int64_t PARTS = 4;  // of what is left for a thread
  static constexpr int SPINS = 20000;  // then a core is wanted by others: give it away

  void wait() {
    const int64_t now = round.load(std::memory_order_acquire);
    if (waiting.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads) {
      waiting.store(0, std::memory_order_relaxed);
      round.store(now + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; round.load(std::memory_order_acquire) == now; ++spins)
      if (spins > SPINS) std::this_thread::yield();
  }

  const int num_threads;
  std::vector<std::atomic<int64_t>> next;
  std::atomic<int> waiting{0};
  std::atomic<int64_t> round{0};
};

inline void rms_norm(const float* x, const float* weight, float* y, int64_t n, float eps) {
  Floats squares = {};
  for (int64_t i = 0; i < n; i += LANES) {
    const Floats v = load_floats(x + i);
    squares += v * v;
  }
  const float scale = 1 / std::sqrt(sum(squares) / n + eps);
  for (int64_t i = 0; i < n; i += LANES) {
    const Floats v = load_floats(x + i) * scale * load_floats(weight + i);
    std::memcpy(y + i, &v, sizeof v);
  }
}

// Norm, where there is one, and rotary positions of one head; pairs are (i, i + K/2).
inline void rotate(const float* x, const float* norm, const float* cosine, const float* sine, float* y, int64_t K,
                   float eps, float* scratch) {
  if (norm) {
    rms_norm(x, norm, scratch, K, eps);
    x = scratch;
  }
  for (int64_t i = 0; i < K / 2; ++i) {
    y[i] = x[i] * cosine[i] - x[i + K / 2] * sine[i];
    y[i + K / 2] = x[i + K / 2] * cosine[i + K / 2] + x[i] * sine[i + K / 2];
  }
}

inline Floats silu(Floats x) {
  const Floats e = exponential(x < 0 ? x : -x);
  return x * (x < 0 ? e : Floats{} + 1) / (1 + e);
}

// x [N, width]: embeddings in, hidden states behind the last norm out.
template <typename W, typename T>
void run_layers(const Step<T>& s, const std::vector<LayerWeights>& layers, const float* last_norm, float* x) {
  constexpr int64_t PHASES = 8, BLOCKS = 4;  // BLOCKS: of weights that a thread takes at least
  const int64_t K = s.head_width, G = s.heads / s.kv_heads, q_width = s.heads * K, kv_width = s.kv_heads * K;
  const int64_t qkv_width = q_width + 2 * kv_width;
  Activations<W> normed(s.N, s.width), mixed(s.N, q_width), inner(s.N, s.ffn_width);
  std::vector<float> qkv(s.N * qkv_width);
  const int num_threads = omp_get_max_threads();
  std::unique_ptr<Team> team;

#pragma omp parallel num_threads(num_threads)
  {
#pragma omp single
    team = std::make_unique<Team>(omp_get_num_threads(), PHASES * layers.size() + 1);
    int64_t phase = 0;
    std::vector<float> row(std::max(s.width, (G + 2) * K)), block(2 * s.N * GROUP), weight;

    const auto norm = [&](const float* by) {
      team->share(phase, s.N, 1, [&](int64_t n, int64_t end) {
        for (; n < end; ++n) {
          rms_norm(x + n * s.width, by, row.data(), s.width, s.eps);
          normed.set(n, 0, row.data(), s.width);
        }
      });
    };
    const auto add = [&](const Activations<W>& inputs, const Matrix& a) {  // to the residual stream
      team->share(phase, a.O / BLOCK, BLOCKS, [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) {
          product<W>(inputs, 0, s.N, a, b, block.data(), BLOCK);
          for (int64_t n = 0; n < s.N; ++n)
            for (int64_t c = 0; c < BLOCK; ++c) x[n * s.width + b * BLOCK + c] += block[n * BLOCK + c];
        }
      });
    };

    for (size_t l = 0; l < layers.size(); ++l) {
      const LayerWeights& w = layers[l];
      T* keys = s.keys + l * s.layer_stride;
      T* values = s.values + l * s.layer_stride;

      norm(w.attention_norm);
      team->share(phase, qkv_width / BLOCK, BLOCKS, [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) {
          const int64_t o = b * BLOCK;
          const Matrix& a = o < q_width ? w.q : o < q_width + kv_width ? w.k : w.v;
          const int64_t first = o < q_width ? 0 : o < q_width + kv_width ? q_width : q_width + kv_width;
          product<W>(normed, 0, s.N, a, (o - first) / BLOCK, qkv.data() + o, qkv_width);
        }
      });
      team->share(phase, s.N * s.kv_heads, 4, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t n = i / s.kv_heads, h = i % s.kv_heads;
          const float* k = &qkv[n * qkv_width + q_width + h * K];
          const int64_t slot = s.row[n] * s.row_stride + h * s.head_stride + s.position[n] * s.position_stride;
          rotate(k, w.k_norm, s.cosine + n * K, s.sine + n * K, row.data(), K, s.eps, &row[K]);
          for (int64_t j = 0; j < K; ++j) keys[slot + j] = row[j];
          for (int64_t j = 0; j < K; ++j) values[slot + j] = k[kv_width + j];
        }
      });
      team->share(phase, s.N * s.kv_heads, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t n = i / s.kv_heads, h = i % s.kv_heads;
          const int64_t first = s.row[n] * s.row_stride + h * s.head_stride;
          float* q = row.data();
          for (int64_t g = 0; g < G; ++g)
            rotate(&qkv[n * qkv_width + (h * G + g) * K], w.q_norm, s.cosine + n * K, s.sine + n * K, q + g * K, K,
                   s.eps, q + G * K);
          // the queries of these heads are not needed again: what they get takes their place
          float* y = &qkv[n * qkv_width + h * G * K];
          attend_group(q, keys + first, values + first, y, G, s.position[n] + 1, K, s.position_stride,
                       s.position_stride, weight);
          mixed.set(n, h * G * K, y, G * K);
        }
      });
      add(mixed, w.out);

      norm(w.ffn_norm);
      team->share(phase, s.ffn_width / GROUP, BLOCKS / 2, [&](int64_t begin, int64_t end) {
        float *gate = block.data(), *up = gate + s.N * GROUP;
        for (int64_t g = begin; g < end; ++g) {
          for (int64_t b = 0; b < GROUP / BLOCK; ++b) {
            product<W>(normed, 0, s.N, w.gate, g * (GROUP / BLOCK) + b, gate + b * BLOCK, GROUP);
            product<W>(normed, 0, s.N, w.up, g * (GROUP / BLOCK) + b, up + b * BLOCK, GROUP);
          }
          for (int64_t i = 0; i < s.N * GROUP; i += LANES) {
            const Floats v = silu(load_floats(gate + i)) * load_floats(up + i);
            std::memcpy(gate + i, &v, sizeof v);
          }
          for (int64_t n = 0; n < s.N; ++n) inner.set(n, g * GROUP, gate + n * GROUP, GROUP);
        }
      });
      add(inner, w.down);
    }
    team->share(phase, s.N, 1, [&](int64_t n, int64_t end) {
      for (; n < end; ++n) rms_norm(x + n * s.width, last_norm, x + n * s.width, s.width, s.eps);
    });
  }
}

}  // namespace
