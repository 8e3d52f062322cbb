#include "sampling/vector_passes.h"

#include <algorithm>
#include <cmath>
#include <cstring>

// Weights must have the same bits in every variant and in the scalar function, so a multiply and
// an add are never contracted into an fma, which only some of the targets have.
#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#define MLC_INLINE inline __attribute__((always_inline))

namespace mlc_server {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Weights below exp(kZeroExponent) round to 0: exp(-25) < 2^-35.
constexpr float kZeroExponent = -25.0f;
// Independent chains of max or add in a block: four vectors of the narrowest target.
constexpr int32_t kLanes = 16;
// Adding and subtracting this rounds a double in [0, 1] to a multiple of 2^-34, half to even.
constexpr double kWeightRounding = 1.5 * (1 << 18);

MLC_INLINE int32_t BitsOf(float value) {
  int32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

MLC_INLINE float FloatOf(int32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Hides a value from the optimiser.
MLC_INLINE float Opaque(float value) {
  asm("" : "+m"(value));
  return value;
}

// e^x for x in [-87, 0]: x = n ln2 + r, |r| <= ln2 / 2, and Cephes' expf polynomial in r.
// Relative error below 2e-7. Branch-free, so that loops over it vectorise.
MLC_INLINE float ExpNonPositive(float x) {
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRoundToInteger = 12582912.0f;  // 1.5 * 2^23: leaves n in the low bits
  const float shifted = x * kLog2E + kRoundToInteger;
  const float n = shifted - kRoundToInteger;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * (r * r) + r) + 1.0f;
  const uint32_t exponent = static_cast<uint32_t>(BitsOf(shifted)) << 23;
  return FloatOf(static_cast<int32_t>(static_cast<uint32_t>(BitsOf(p)) + exponent));
}

// `zero_exponent` is kZeroExponent. In a loop it must be Opaque: seeing the constant, the compiler
// branches on the clamped case and the loop does not vectorise. NaN is clamped too.
MLC_INLINE float UnroundedWeight(float logit, WeightScale scale, float zero_exponent) {
  const float exponent = (logit - scale.max_logit) * scale.inv_temperature;
  return ExpNonPositive(exponent > zero_exponent ? exponent : zero_exponent);
}

MLC_INLINE double RoundWeight(float weight) {
  return (static_cast<double>(weight) + kWeightRounding) - kWeightRounding;
}

MLC_INLINE float BlockMaximum(const float* logits) {
  float best[kLanes];
  for (int32_t lane = 0; lane < kLanes; ++lane) {
    best[lane] = -kInfinity;
  }
  for (int32_t i = 0; i < kLogitBlock; i += kLanes) {
    for (int32_t lane = 0; lane < kLanes; ++lane) {
      best[lane] = logits[i + lane] > best[lane] ? logits[i + lane] : best[lane];
    }
  }
  for (int32_t width = kLanes / 2; width > 0; width /= 2) {
    for (int32_t lane = 0; lane < width; ++lane) {
      best[lane] = best[lane + width] > best[lane] ? best[lane + width] : best[lane];
    }
  }
  return best[0];
}

// Sum of the weights of the block's logits that are >= lowest.
MLC_INLINE double BlockMass(const float* logits, float lowest, WeightScale scale,
                            float zero_exponent) {
  float weights[kLogitBlock];
  for (int32_t i = 0; i < kLogitBlock; ++i) {
    const float weight = UnroundedWeight(logits[i], scale, zero_exponent);
    weights[i] = FloatOf(BitsOf(weight) & -static_cast<int32_t>(logits[i] >= lowest));
  }
  double sums[kLanes];
  for (int32_t lane = 0; lane < kLanes; ++lane) {
    sums[lane] = 0.0;
  }
  for (int32_t i = 0; i < kLogitBlock; i += kLanes) {
    for (int32_t lane = 0; lane < kLanes; ++lane) {
      sums[lane] += RoundWeight(weights[i + lane]);
    }
  }
  for (int32_t width = kLanes / 2; width > 0; width /= 2) {
    for (int32_t lane = 0; lane < width; ++lane) {
      sums[lane] += sums[lane + width];
    }
  }
  return sums[0];
}

// The block starting at `begin`, padded with -inf into `padded` when the row ends inside it.
MLC_INLINE const float* WholeBlock(const float* logits, int32_t count, int32_t begin,
                                   float* padded) {
  if (count - begin >= kLogitBlock) {
    return logits + begin;
  }
  for (int32_t i = 0; i < kLogitBlock; ++i) {
    padded[i] = begin + i < count ? logits[begin + i] : -kInfinity;
  }
  return padded;
}

MLC_INLINE void BlockMaxima(const float* logits, int32_t count, float* maxima) {
  float padded[kLogitBlock];
  for (int32_t begin = 0; begin < count; begin += kLogitBlock) {
    maxima[begin / kLogitBlock] = BlockMaximum(WholeBlock(logits, count, begin, padded));
  }
}

MLC_INLINE double BlockMasses(const float* logits, int32_t count, const float* maxima, Cut cut,
                              WeightScale scale, double* masses) {
  const float zero_exponent = Opaque(kZeroExponent);
  // Logits equal to the cut's are kept up to its id only: beyond it, the bound is the next float.
  const float lowest_after = std::nextafter(cut.logit, kInfinity);
  float padded[kLogitBlock];
  double total = 0.0;
  for (int32_t begin = 0; begin < count; begin += kLogitBlock) {
    const float maximum = maxima[begin / kLogitBlock];
    double mass = 0.0;
    const bool weightless = (maximum - scale.max_logit) * scale.inv_temperature <= kZeroExponent;
    if (maximum >= cut.logit && !weightless) {
      if (cut.id >= begin && cut.id - begin < kLogitBlock - 1) {
        const int32_t end = std::min(count, begin + kLogitBlock);
        for (int32_t id = begin; id < end; ++id) {
          if (cut.Keeps(logits[id], id)) {
            mass += RoundWeight(UnroundedWeight(logits[id], scale, zero_exponent));
          }
        }
      } else {
        const float lowest = begin > cut.id ? lowest_after : cut.logit;
        mass = BlockMass(WholeBlock(logits, count, begin, padded), lowest, scale, zero_exponent);
      }
    }
    masses[begin / kLogitBlock] = mass;
    total += mass;
  }
  return total;
}

// The passes are inlined into one function per instruction set.
#define MLC_DEFINE_VECTOR_PASSES(Name, attributes)                                             \
  attributes void BlockMaxima##Name(const float* logits, int32_t count, float* maxima) {       \
    BlockMaxima(logits, count, maxima);                                                        \
  }                                                                                            \
  attributes double BlockMasses##Name(const float* logits, int32_t count, const float* maxima, \
                                      Cut cut, WeightScale scale, double* masses) {            \
    return BlockMasses(logits, count, maxima, cut, scale, masses);                             \
  }

MLC_DEFINE_VECTOR_PASSES(Portable, )
#if defined(__x86_64__)
#if defined(__clang__)
#define MLC_AVX512_TARGET "avx512f,avx512bw,avx512dq,avx512vl"
#else  // GCC's generic tuning would stay with 256-bit vectors
#define MLC_AVX512_TARGET "avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512"
#endif
MLC_DEFINE_VECTOR_PASSES(Avx2, __attribute__((target("avx2"))))
MLC_DEFINE_VECTOR_PASSES(Avx512, __attribute__((target(MLC_AVX512_TARGET))))
#endif

}  // namespace

double TokenWeight(float logit, WeightScale scale) {
  return RoundWeight(UnroundedWeight(logit, scale, kZeroExponent));
}

std::vector<VectorPasses> AvailableVectorPasses() {
  std::vector<VectorPasses> passes = {{"portable", BlockMaximaPortable, BlockMassesPortable}};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) {
    passes.push_back({"avx2", BlockMaximaAvx2, BlockMassesAvx2});
  }
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    passes.push_back({"avx512", BlockMaximaAvx512, BlockMassesAvx512});
  }
#endif
  return passes;
}

}  // namespace mlc_server
