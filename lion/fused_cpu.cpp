// Lion's step over any number of tensors in one pass over their memory, rounded where the operators of lion/plain.py
// round. Compiled and called by lion/fused_cpu.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include <omp.h>

namespace {

constexpr int64_t kChunk = 1 << 14;  // entries that a thread takes at a time

struct bfloat16 {
  uint16_t bits;
};

struct Scalars {
  float sign, decay, lr, beta1, one_minus_beta1, beta2, one_minus_beta2;
};

inline float widen(float number) { return number; }

inline float widen(bfloat16 number) {
  const uint32_t bits = uint32_t(number.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

inline void narrow(float number, float* target) { *target = number; }

// To the nearest, a tie to the even one, and any NaN to the one that PyTorch takes.
inline void narrow(float number, bfloat16* target) {
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  target->bits = uint16_t(number != number ? 0x7fc0 : rounded);
}

// Entries of one tensor. Without a compensation, the pointer to it is never read.
template <typename Param, typename Momentum, bool compensated>
void update(Param* __restrict param, const Param* __restrict grad, Momentum* __restrict exp_avg,
            Param* __restrict compensation, int64_t entries, const Scalars s) {
#pragma omp simd
  for (int64_t i = 0; i < entries; ++i) {
    const float g = widen(grad[i]) * s.sign;
    const float m = widen(exp_avg[i]);
    float p = widen(param[i]);
    if (compensated) p += widen(compensation[i]);
    const float direction = m * s.beta1 + g * s.one_minus_beta1;
    // Adding -0.0 changes no number, not even -0.0, which adding 0.0 would.
    p = p * s.decay + (direction > 0 ? -s.lr : direction < 0 ? s.lr : -0.0f);
    narrow(p, &param[i]);
    if (compensated) narrow(p - widen(param[i]), &compensation[i]);
    // The operator add_(g, alpha) rounds once, which a product and a sum would not.
    narrow(std::fma(g, s.one_minus_beta2, m * s.beta2), &exp_avg[i]);
  }
}

template <typename Param, typename Momentum, bool compensated>
void step(int64_t tensors, const int64_t* sizes, Param** params, Param** grads, Momentum** exp_avgs,
          Param** compensations, const Scalars* scalars, int threads) {
  std::vector<int64_t> first_chunks(tensors + 1, 0);
  for (int64_t t = 0; t < tensors; ++t) first_chunks[t + 1] = first_chunks[t] + (sizes[t] + kChunk - 1) / kChunk;
  const int64_t chunks = first_chunks[tensors];

#pragma omp parallel num_threads(std::max<int64_t>(1, std::min<int64_t>(threads, chunks)))
  {
    // Neighbouring chunks to one thread, however the entries are spread over the tensors.
    const int64_t begin = chunks * omp_get_thread_num() / omp_get_num_threads();
    const int64_t end = chunks * (omp_get_thread_num() + 1) / omp_get_num_threads();
    int64_t t = std::upper_bound(first_chunks.begin(), first_chunks.end(), begin) - first_chunks.begin() - 1;
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      while (chunk >= first_chunks[t + 1]) ++t;
      const int64_t at = (chunk - first_chunks[t]) * kChunk;
      update<Param, Momentum, compensated>(params[t] + at, grads[t] + at, exp_avgs[t] + at,
                                           compensated ? compensations[t] + at : nullptr,
                                           std::min(kChunk, sizes[t] - at), *scalars);
    }
  }
}

}  // namespace

#define LION_STEP(name, Param, Momentum, compensated)                                                           \
  extern "C" void name(int64_t tensors, const int64_t* sizes, Param** params, Param** grads,                    \
                       Momentum** exp_avgs, Param** compensations, const Scalars* scalars, int threads) {       \
    step<Param, Momentum, compensated>(tensors, sizes, params, grads, exp_avgs, compensations, scalars, threads); \
  }

LION_STEP(float32_float32, float, float, false)
LION_STEP(float32_bfloat16, float, bfloat16, false)
LION_STEP(bfloat16_float32, bfloat16, float, false)
LION_STEP(bfloat16_bfloat16, bfloat16, bfloat16, false)
LION_STEP(bfloat16_float32_bfloat16, bfloat16, float, true)
LION_STEP(bfloat16_bfloat16_bfloat16, bfloat16, bfloat16, true)
