// Rotary embedding against float64.
#include "kernels/rope.h"

#include "base/thread_pool.h"
#include "check.h"
#include "owned_array.h"

namespace mlf {
namespace {

constexpr DLDevice kCpu{kDLCPU, 0};

double Angle(int32_t position, int64_t pair, int64_t rotary, const float* factors, double base,
             double scale) {
  const double frequency = std::pow(base, -2.0 * static_cast<double>(pair) / rotary);
  return position * scale * frequency / (factors != nullptr ? factors[pair] : 1.f);
}

OwnedArray<int32_t> Positions(int64_t tokens) {
  OwnedArray<int32_t> out({tokens});
  for (int64_t t = 0; t < tokens; ++t) out[t] = static_cast<int32_t>(t * 7919 % 131072 - (t == 2));
  return out;
}

void TestAngles(int64_t tokens, int64_t pairs, double base, double scale, bool with_factors) {
  const OwnedArray<int32_t> positions = Positions(tokens);
  auto factors = RandomArray<float>({pairs}, 5);
  for (float& f : factors.data) f = 1 + std::abs(f);
  OwnedArray<float> out({tokens, 2, pairs});
  rope_angles_kernel(kCpu, out, positions, with_factors ? factors.view : ArrayView(), base, scale);
  for (int64_t i = 0; i < tokens * pairs; ++i) {
    const int64_t t = i / pairs, p = i % pairs;
    const double a =
        Angle(positions[t], p, 2 * pairs, with_factors ? &factors[0] : nullptr, base, scale);
    MLF_EXPECT(std::abs(out[2 * t * pairs + p] - std::cos(a)) < 1e-7);
    MLF_EXPECT(std::abs(out[(2 * t + 1) * pairs + p] - std::sin(a)) < 1e-7);
  }
}

void TestRope(int64_t tokens, int64_t heads, int64_t dim, int64_t rotary, bool interleaved) {
  const OwnedArray<int32_t> positions = Positions(tokens);
  OwnedArray<float> angles({tokens, 2, rotary / 2});
  rope_angles_kernel(kCpu, angles, positions, ArrayView(), 1e4, 1.0);
  auto x = RandomArray<float>({tokens, heads, dim}, 7);
  const std::vector<float> old = x.data;
  rope_rotate_kernel(kCpu, x, angles, interleaved);
  for (int64_t i = 0; i < x.size(); ++i) {
    const int64_t t = i / (heads * dim), d = i % dim, head = i - d;
    if (d >= rotary) {
      MLF_EXPECT(x[i] == old[i]);
      continue;
    }
    const int64_t pair = interleaved ? d / 2 : d % (rotary / 2);
    const int64_t a = interleaved ? 2 * pair : pair, b = interleaved ? a + 1 : a + rotary / 2;
    const double turn = Angle(positions[t], pair, rotary, nullptr, 1e4, 1.0);
    const double want = d == a ? old[head + a] * std::cos(turn) - old[head + b] * std::sin(turn)
                               : old[head + a] * std::sin(turn) + old[head + b] * std::cos(turn);
    MLF_EXPECT(std::abs(x[i] - want) < 1e-6);
  }
  OwnedArray<float> again({tokens, heads, dim});
  std::copy(old.begin(), old.end(), again.data.begin());
  const ThreadLimit one(1);
  rope_rotate_kernel(kCpu, again, angles, interleaved);
  MLF_EXPECT(SameBits(x, again));
}

/// q and k in one call, of any dtype: what angles and rotation give one after the other, rounded.
template <typename T>
void TestFused(int64_t tokens, int64_t dim, int64_t rotary, bool interleaved) {
  const OwnedArray<int32_t> positions = Positions(tokens);
  OwnedArray<int64_t> wide({tokens});
  std::copy(positions.data.begin(), positions.data.end(), wide.data.begin());
  OwnedArray<float> angles({tokens, 2, rotary / 2});
  rope_angles_kernel(kCpu, angles, positions, ArrayView(), 1e4, 0.5);
  OwnedArray<T> got[] = {RandomArray<T>({tokens, 3, dim}, 7), RandomArray<T>({tokens, 2, dim}, 8)};
  OwnedArray<T> again[] = {RandomArray<T>({tokens, 3, dim}, 7),
                           RandomArray<T>({tokens, 2, dim}, 8)};
  rope_kernel(kCpu, got[0], got[1], positions, ArrayView(), rotary, interleaved, 1e4, 0.5, -1, 0,
              1);
  for (int i = 0; i < 2; ++i) {
    OwnedArray<float> x({tokens, 3 - i, dim});
    for (int64_t j = 0; j < x.size(); ++j) x[j] = static_cast<float>(again[i][j]);
    rope_rotate_kernel(kCpu, x, angles, interleaved);
    for (int64_t j = 0; j < x.size(); ++j) {
      const T want = FromFloat<T>(x[j]);
      MLF_EXPECT(std::memcmp(&got[i][j], &want, sizeof(T)) == 0);
    }
  }
  const ThreadLimit one(1);
  rope_kernel(kCpu, again[0], again[1], wide, ArrayView(), rotary, interleaved, 1e4, 0.5, -1, 0, 1);
  MLF_EXPECT(SameBits(got[0], again[0]) && SameBits(got[1], again[1]));
}

/// Frequencies of pairs below, within and above the ramp; the magnitude.
void TestRamp() {
  constexpr int64_t kPairs = 8;
  OwnedArray<float> q({1, 1, 2 * kPairs}), k({1, 0, 2 * kPairs});
  std::fill_n(q.data.begin(), kPairs, 1.f);
  OwnedArray<int32_t> positions({1});
  positions[0] = 3;
  rope_kernel(kCpu, q, k, positions, ArrayView(), 2 * kPairs, false, 100, 0.25, 2, 6, 1.5);
  for (int64_t i = 0; i < kPairs; ++i) {
    const double share = std::min(1.0, std::max(0.0, (static_cast<double>(i) - 2) / 4));
    const double angle = 3 * std::pow(100, -i / 8.0) * (1 - share + share * 0.25);
    MLF_EXPECT(std::abs(q[i] - 1.5 * std::cos(angle)) < 3e-7);
    MLF_EXPECT(std::abs(q[i + kPairs] - 1.5 * std::sin(angle)) < 3e-7);
  }
}

template <typename T>
void TestFusedAll() {
  for (bool interleaved : {false, true}) {
    for (int64_t tokens : {0, 1, 5, 300}) {
      TestFused<T>(tokens, 2, 2, interleaved);
      TestFused<T>(tokens, 64, 64, interleaved);
      TestFused<T>(tokens, 80, 34, interleaved);
      TestFused<T>(tokens, 128, 126, interleaved);
    }
  }
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestFusedAll<float>();
  mlf::TestFusedAll<mlf::F16>();
  mlf::TestFusedAll<mlf::BF16>();
  mlf::TestRamp();
  for (int64_t pairs : {1, 4, 32, 33, 64}) {
    for (int64_t tokens : {0, 1, 17}) {
      mlf::TestAngles(tokens, pairs, 1e4, 1.0, false);
      mlf::TestAngles(tokens, pairs, 5e5, 0.25, true);
    }
  }
  for (bool interleaved : {false, true}) {
    for (int64_t tokens : {0, 1, 5, 300}) {
      mlf::TestRope(tokens, 1, 2, 2, interleaved);
      mlf::TestRope(tokens, 3, 8, 8, interleaved);
      mlf::TestRope(tokens, 4, 64, 64, interleaved);
      mlf::TestRope(tokens, 2, 80, 34, interleaved);  // partial, odd number of pairs
      mlf::TestRope(tokens, 9, 128, 126, interleaved);
    }
  }
  return 0;
}
