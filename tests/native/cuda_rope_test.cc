// Rotary embedding on CUDA, in the emulator: float64 references.
#include "check.h"
#include "cuda_array.h"
#include "cuda_emulator.h"
#include "kernels/rope.h"
#include "kernels/rope_launch.h"

namespace mlf {
namespace {

struct Shape {
  int64_t tokens, q_heads, k_heads, dim, rotary;
};

template <typename T>
double Tolerance() {  // of values of about 1 to 4
  return std::is_same_v<T, float> ? 2e-6 : std::is_same_v<T, F16> ? 2e-3 : 1.6e-2;
}

template <typename P>
OwnedArray<P> Positions(int64_t tokens) {
  auto out = OnCuda(OwnedArray<P>({tokens}));
  for (int64_t t = 0; t < tokens; ++t) out[t] = static_cast<P>(t * 7919 % 131072 - (t == 2));
  return out;
}

/// Turns of each pair at position 1.
std::vector<double> Turns(int64_t rotary, const float* factors) {
  std::vector<double> turns(rotary / 2);
  for (int64_t i = 0; i < rotary / 2; ++i) {
    turns[i] = RopeTurn(i, rotary / 2, 1e4, {0.5, 3, 9}) / (factors == nullptr ? 1 : factors[i]);
  }
  return turns;
}

template <typename T>
void ExpectTurned(const OwnedArray<T>& got, const OwnedArray<T>& old, int64_t dim, int64_t rotary,
                  bool interleaved, auto turn_of) {
  for (int64_t i = 0; i < old.size(); ++i) {
    const int64_t d = i % dim, head = i - d;
    if (d >= rotary) {
      MLF_EXPECT(std::memcmp(&got[i], &old[i], sizeof(T)) == 0);
      continue;
    }
    const int64_t pair = interleaved ? d / 2 : d % (rotary / 2), a = interleaved ? 2 * pair : pair,
                  b = interleaved ? a + 1 : a + rotary / 2;
    const double turn = turn_of(i, pair) * 6.283185307179586, x = old.At(head + a),
                 y = old.At(head + b);
    const double want =
        d == a ? x * std::cos(turn) - y * std::sin(turn) : x * std::sin(turn) + y * std::cos(turn);
    MLF_EXPECT(std::abs(got.At(i) - 1.5 * want) <= Tolerance<T>() * (1 + std::abs(want)));
  }
}

template <typename T, typename P>
void TestRope(const Shape& s, bool interleaved, bool with_factors, int64_t offset) {
  const auto positions = Positions<P>(s.tokens);
  auto factors = OnCuda(RandomArray<float>({s.rotary / 2}, 5));
  for (float& f : factors.data) f = 1 + std::abs(f);
  const std::vector<double> turns = Turns(s.rotary, with_factors ? &factors[0] : nullptr);
  const int64_t q_size = s.tokens * s.q_heads * s.dim, k_size = s.tokens * s.k_heads * s.dim;
  auto q = RandomArray<T>({q_size + offset}, 7), k = RandomArray<T>({k_size}, 8);
  OwnedArray<T> old_q({q_size}), old_k = RandomArray<T>({k_size}, 8);
  std::copy(q.data.begin() + offset, q.data.end(), old_q.data.begin());
  rope_kernel(kCuda, From(q, offset, {s.tokens, s.q_heads, s.dim}),
              From(k, 0, {s.tokens, s.k_heads, s.dim}), positions,
              with_factors ? factors.view : ArrayView(), s.rotary, interleaved, 1e4, 0.5, 3, 9,
              1.5);
  const auto turn_of = [&](int64_t heads) {
    return [&, heads](int64_t i, int64_t pair) {
      return turns[pair] * static_cast<double>(positions[i / (heads * s.dim)]);
    };
  };
  OwnedArray<T> got_q({q_size});
  std::copy(q.data.begin() + offset, q.data.end(), got_q.data.begin());
  ExpectTurned(got_q, old_q, s.dim, s.rotary, interleaved, turn_of(s.q_heads));
  ExpectTurned(k, old_k, s.dim, s.rotary, interleaved, turn_of(s.k_heads));
}

template <typename T>
void TestShapes() {
  const Shape shapes[] = {{0, 2, 1, 64, 64},   {1, 3, 2, 2, 2},      {5, 3, 2, 64, 64},
                          {3, 2, 1, 80, 34},   {9, 4, 1, 128, 126},  {2, 32, 8, 128, 128},
                          {2, 1, 1, 600, 528}, {1, 1, 1, 1100, 1026}};  // two and three launches
  for (const Shape& s : shapes) {
    for (bool interleaved : {false, true}) {
      TestRope<T, int32_t>(s, interleaved, false, 0);
      TestRope<T, int64_t>(s, interleaved, true, 1);
    }
  }
}

/// What the op makes of its arguments arrives.
void TestOp() {
  static const ffi::Function op = ffi::Function::GetGlobalRequired("my_llm_ffi.rope");
  const auto positions = Positions<int32_t>(4);
  auto q = RandomArray<float>({4, 2, 64}, 1), k = RandomArray<float>({4, 1, 64}, 2),
       want_q = RandomArray<float>({4, 2, 64}, 1), want_k = RandomArray<float>({4, 1, 64}, 2);
  const auto run = [&](DLDevice device, const OwnedArray<float>& a, const OwnedArray<float>& b) {
    op(TensorView(a.view.On(device)), TensorView(b.view.On(device)),
       TensorView(positions.view.On(device)), nullptr, 48, true, 5e5, ffi::String("yarn"), 4.0,
       1024, 32.0, 1.0, nullptr);
  };
  run({kDLCPU, 0}, want_q, want_k);
  run(kCuda, q, k);
  for (int64_t i = 0; i < q.size(); ++i) MLF_EXPECT(std::abs(q[i] - want_q[i]) < 3e-6);
  for (int64_t i = 0; i < k.size(); ++i) MLF_EXPECT(std::abs(k[i] - want_k[i]) < 3e-6);
}

/// Angles and rotation one after the other.
void TestSteps(int64_t tokens, int64_t pairs, bool interleaved) {
  const auto positions = Positions<int32_t>(tokens);
  auto angles = CudaOutput<float>({tokens, 2, pairs});
  rope_angles_kernel(kCuda, angles, positions, ArrayView(), 1e4, 0.25);
  for (int64_t i = 0; i < tokens * pairs; ++i) {
    const int64_t t = i / pairs, p = i % pairs;
    const double turn = RopeTurn(p, pairs, 1e4, {0.25}) * positions[t] * 6.283185307179586;
    MLF_EXPECT(std::abs(angles[2 * t * pairs + p] - std::cos(turn)) < 1.2e-7);
    MLF_EXPECT(std::abs(angles[(2 * t + 1) * pairs + p] - std::sin(turn)) < 1.2e-7);
  }
  const int64_t dim = 2 * pairs + 4;
  auto x = OnCuda(RandomArray<float>({tokens, 3, dim}, 7)),
       want = RandomArray<float>({tokens, 3, dim}, 7);
  rope_rotate_kernel(kCuda, x, angles, interleaved);
  rope_rotate_kernel({kDLCPU, 0}, want, angles.view.On({kDLCPU, 0}), interleaved);
  for (int64_t i = 0; i < x.size(); ++i) MLF_EXPECT(std::abs(x[i] - want[i]) < 1e-6);
}

}  // namespace
}  // namespace mlf

int main() {
  for (uint64_t seed : {1, 2}) {
    mlf::emulated::SetSeed(seed);
    mlf::TestShapes<float>();
    mlf::TestShapes<mlf::F16>();
    mlf::TestShapes<mlf::BF16>();
    mlf::TestOp();
    for (bool interleaved : {false, true}) {
      for (int64_t tokens : {0, 1, 5}) {
        for (int64_t pairs : {1, 32, 33, 300}) mlf::TestSteps(tokens, pairs, interleaved);
      }
    }
  }
  return 0;
}
