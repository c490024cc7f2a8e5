// Lion's step over any number of tensors in one pass over their memory, rounded where the operators of lion/plain.py
// round. Compiled by lion/compilation.py and called by lion/fused_cpu.py: first `lion_check`, with the GIL held, which
// looks up and checks every tensor, then a step over the table that it filled, without the GIL.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace {

// DLPack's description of a tensor (dlpack.h, version 1).
struct DLTensor {
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  uint8_t type_code, type_bits;
  uint16_t type_lanes;
  int64_t *shape, *strides;
  uint64_t byte_offset;
};
constexpr int32_t kCpu = 1;
constexpr uint8_t kFloat = 2, kBfloat = 4;

using Body = void (*)(int64_t begin, int64_t end, void* context);

// Functions of the Python and the PyTorch that run, handed over so that this compiles without either's headers.
struct Functions {
  void* (*list_item)(void* list, ptrdiff_t index);       // PyList_GetItem
  void (*clear_error)();                                 // PyErr_Clear
  int (*describe)(void* tensor, DLTensor* description);  // of torch.Tensor.__dlpack_c_exchange_api__
  int32_t (*parallel_for)(int64_t begin, int64_t end, int64_t grain, Body body, void* context);  // at::parallel_for
};

constexpr int64_t kChunk = 1 << 14;  // entries of a tensor that a thread takes at a time
constexpr int64_t kWorth = 1 << 15;  // entries that are worth a thread of their own, as in PyTorch

struct bfloat16 {
  uint16_t bits;
};

struct Scalars {
  float sign, decay, lr, beta1, one_minus_beta1, beta2, one_minus_beta2, inverse_scale;
};

inline float widen(float number) { return number; }

inline float widen(bfloat16 number) {
  const uint32_t bits = uint32_t(number.bits) << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

inline void narrow(float number, float* target) { *target = number; }

// Round to nearest, ties to even; any NaN becomes the one that PyTorch uses.
inline void narrow(float number, bfloat16* target) {
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  target->bits = uint16_t(number != number ? 0x7fc0 : rounded);
}

template <typename Param>
void unscale(Param* grad, int64_t entries, float inverse_scale) {
#pragma omp simd
  for (int64_t i = 0; i < entries; ++i) narrow(widen(grad[i]) * inverse_scale, &grad[i]);
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

// `table` holds the entries of each tensor, then the addresses of parameters, gradients, momenta and compensations.
template <typename Param, typename Momentum, bool compensated>
void step(int64_t tensors, const int64_t* table, const Scalars& scalars, const Functions& functions) {
  const int64_t* sizes = table;
  Param* const* params = reinterpret_cast<Param* const*>(table + tensors);
  Param* const* grads = params + tensors;
  Momentum* const* exp_avgs = reinterpret_cast<Momentum* const*>(grads + tensors);
  Param* const* compensations = reinterpret_cast<Param* const*>(exp_avgs + tensors);

  std::vector<int64_t> first_chunks(tensors + 1, 0);
  int64_t entries = 0;
  for (int64_t t = 0; t < tensors; ++t) {
    first_chunks[t + 1] = first_chunks[t] + (sizes[t] + kChunk - 1) / kChunk;
    entries += sizes[t];
  }
  const int64_t chunks = first_chunks[tensors];

  // Neighbouring chunks to one thread, however the entries are spread over the tensors.
  auto body = [&](int64_t begin, int64_t end) {
    int64_t t = std::upper_bound(first_chunks.begin(), first_chunks.end(), begin) - first_chunks.begin() - 1;
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      while (chunk >= first_chunks[t + 1]) ++t;
      const int64_t at = (chunk - first_chunks[t]) * kChunk;
      const int64_t count = std::min(kChunk, sizes[t] - at);
      if (scalars.inverse_scale != 1) unscale(grads[t] + at, count, scalars.inverse_scale);
      update<Param, Momentum, compensated>(params[t] + at, grads[t] + at, exp_avgs[t] + at,
                                           compensated ? compensations[t] + at : nullptr, count, scalars);
    }
  };
  if (entries <= kWorth) return body(0, chunks);
  const int64_t grain = (kWorth * chunks + entries - 1) / entries;
  functions.parallel_for(
      0, chunks, grain,
      [](int64_t begin, int64_t end, void* context) { (*static_cast<decltype(body)*>(context))(begin, end); }, &body);
}

// Whether the entries fill their memory without gaps, with the axes in any order.
bool is_dense(const DLTensor& tensor) {
  int64_t expected = 1;
  int axis = tensor.ndim - 1;
  for (; axis >= 0 && (tensor.shape[axis] == 1 || tensor.strides[axis] == expected); --axis)
    expected *= tensor.shape[axis];
  if (axis < 0) return true;  // contiguous
  std::vector<std::pair<int64_t, int64_t>> axes;
  for (axis = 0; axis < tensor.ndim; ++axis)
    if (tensor.shape[axis] != 1) axes.emplace_back(tensor.strides[axis], tensor.shape[axis]);
  std::sort(axes.begin(), axes.end());
  expected = 1;
  for (const auto& [stride, size] : axes) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

// Whether two tensors have the same shape and the same memory layout.
bool are_alike(const DLTensor& one, const DLTensor& other) {
  if (one.ndim != other.ndim) return false;
  for (int axis = 0; axis < one.ndim; ++axis) {
    if (one.shape[axis] != other.shape[axis]) return false;
    if (one.shape[axis] != 1 && one.strides[axis] != other.strides[axis]) return false;
  }
  return true;
}

}  // namespace

// Fill a step's table from lists of tensors, all torch.Tensor or torch.nn.Parameter. The dtypes of the columns are
// given in bits: 32 for float32, 16 for bfloat16. Return 1, or 0 if a step must not touch these tensors, because they
// have other dtypes or differ in shape, are not in host memory, or share memory.
extern "C" int lion_check(void* params, void* grads, void* exp_avgs, void* compensations, int64_t tensors,
                          int64_t columns, const int64_t* bits, int64_t threads, const Functions* functions,
                          int64_t* table) {
  void* const lists[] = {params, grads, exp_avgs, compensations};
  int64_t entries = 0;
  for (int64_t t = 0; t < tensors; ++t) {
    DLTensor row[4];
    int64_t size = 1;
    for (int64_t column = 0; column < columns; ++column) {
      DLTensor& tensor = row[column];
      void* object = functions->list_item(lists[column], t);
      if (object == nullptr || functions->describe(object, &tensor) != 0) {
        functions->clear_error();
        return 0;
      }
      if (tensor.device_type != kCpu || tensor.type_bits != bits[column] ||
          tensor.type_code != (bits[column] == 32 ? kFloat : kBfloat))
        return 0;
      if (column == 0) {
        for (int axis = 0; axis < tensor.ndim; ++axis) size *= tensor.shape[axis];
        if (!is_dense(tensor)) return 0;
      } else if (!are_alike(row[0], tensor)) {
        return 0;
      }
      if (tensor.data == nullptr && size != 0) return 0;
      char* address = static_cast<char*>(tensor.data) + tensor.byte_offset;
      for (int64_t before = 0; before < column; ++before) {
        char* other = reinterpret_cast<char*>(table[(before + 1) * tensors + t]);
        if (address < other + size * bits[before] / 8 && other < address + size * bits[column] / 8) return 0;
      }
      table[(column + 1) * tensors + t] = reinterpret_cast<int64_t>(address);
    }
    table[t] = size;
    entries += size;
  }
  if (threads == 1 || entries <= kWorth) return 1;  // one row after the other, which may then share memory

  std::vector<std::pair<int64_t, int64_t>> written;
  for (int64_t column = 0; column < columns; ++column)
    for (int64_t t = 0; t < tensors; ++t) {
      const int64_t begin = table[(column + 1) * tensors + t];
      if (column != 1 && table[t] != 0) written.emplace_back(begin, begin + table[t] * bits[column] / 8);
    }
  std::sort(written.begin(), written.end());
  for (size_t i = 1; i < written.size(); ++i)
    if (written[i].first < written[i - 1].second) return 0;
  return 1;
}

#define LION_STEP(name, Param, Momentum, compensated)                                                \
  extern "C" void lion_##name(int64_t tensors, const int64_t* table, const Scalars* scalars,         \
                              const Functions* functions) {                                          \
    step<Param, Momentum, compensated>(tensors, table, *scalars, *functions);                        \
  }

LION_STEP(float32_float32, float, float, false)
LION_STEP(float32_bfloat16, float, bfloat16, false)
LION_STEP(bfloat16_float32, bfloat16, float, false)
LION_STEP(bfloat16_bfloat16, bfloat16, bfloat16, false)
LION_STEP(bfloat16_float32_bfloat16, bfloat16, float, true)
LION_STEP(bfloat16_bfloat16_bfloat16, bfloat16, bfloat16, true)
