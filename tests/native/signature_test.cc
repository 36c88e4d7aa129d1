// Tests of src/base/signature.cc, signature_parser.cc and op.h.
#include "base/signature.h"

#include <vector>

#include "base/op.h"
#include "base/signature_parser.h"
#include "check.h"

namespace mlf {
namespace {

using Views = std::vector<const TensorView*>;

void Check(const Signature& signature, const Views& views) {
  signature.Check(views.data(), views.size());
}

float memory[64] = {};

ArrayView Floats(std::initializer_list<int64_t> shape, int at = 0) {
  return {memory + at, kF32, shape};
}

void TestDims() {
  const Signature s("op", "(x: T['*b d', 'f32'], w: T['d'], y: T['3 d'] | None = None) -> None");
  const ArrayView x = Floats({2, 2, 4}), w = Floats({4}), three = Floats({3, 4}), row = Floats({4});
  const TensorView vx = x, vw = w, v3 = three, vr = row;
  Check(s, {&vx, &vw, nullptr});
  Check(s, {&vx, &vw, &v3});
  Check(s, {&vr, &vw, nullptr});
  const ArrayView wrong = Floats({5}), two = Floats({2, 4}), none(memory, kF32, {});
  const TensorView v5 = wrong, v2 = two, v0 = none;
  MLF_EXPECT_THROWS(Check(s, {&vx, &v5, nullptr}), "ValueError",
                    "op: w has shape [5], expected [d=4 (from x)]");
  MLF_EXPECT_THROWS(Check(s, {&vx, &vw, &v2}), "ValueError", "expected [3, d=4 (from x)]");
  MLF_EXPECT_THROWS(Check(s, {&v0, &vw, nullptr}), "ValueError", "x has shape []");
  MLF_EXPECT_THROWS(Check(s, {&vx, &vw}), "InternalError", "checks 2 tensors, declares 3");
}

void TestDtypes() {
  const Signature s("op",
                    "(x: T['n', 'f32 f16'], y: T['n', 'like x or u8'], z: T['n']) -> "
                    "{'a': T['n', 'bf16 f32'], 'b': T['n*2', 'like y']}");
  const ArrayView f = Floats({4}), a = Floats({4}, 8), b = Floats({4}, 16);
  const ArrayView ints(memory, kI32, {4}), bytes(memory, kU8, {4});
  const TensorView vf = f, va = a, vb = b, vi = ints, vu = bytes;
  Check(s, {&vf, &vf, &vf, &va, &vb});
  MLF_EXPECT_THROWS(Check(s, {&vi, &vf, &vf, &va, &vb}), "TypeError",
                    "x is int32, expected one of float32, float16");
  MLF_EXPECT_THROWS(Check(s, {&vf, &vi, &vf, &va, &vb}), "TypeError",
                    "y is int32, expected one of float32 (like x), uint8");
  MLF_EXPECT_THROWS(Check(s, {&vf, &vf, &vu, &va, &vb}), "TypeError",
                    "z is uint8, expected float32 (like x)");
  MLF_EXPECT_THROWS(Check(s, {&vf, &vf, &vf, &vi, &vb}), "TypeError",
                    "a is int32, expected one of bfloat16, float32");
}

void TestOverlap() {
  const Signature s("op", "(x: T['n', 'f32'], m: Mut['n']) -> T['n', 'may be x']");
  const ArrayView x = Floats({4}), m = Floats({4}, 8), out = Floats({4}, 16), part = Floats({4}, 2);
  const TensorView vx = x, vm = m, vo = out, vp = part;
  Check(s, {&vx, &vm, &vo});
  Check(s, {&vx, &vm, &vx});
  MLF_EXPECT_THROWS(Check(s, {&vx, &vm, &vp}), "ValueError",
                    "out overlaps x in memory; it may be the whole of it or apart from it");
  MLF_EXPECT_THROWS(Check(s, {&vx, &vx, &vo}), "ValueError",
                    "m overlaps x in memory, expected memory of its own");
  MLF_EXPECT_THROWS(Check(s, {&vx, &vm, &vm}), "ValueError", "overlaps");
  const ArrayView empty = Floats({0}, 2);
  const TensorView ve = empty;
  Check(s, {&ve, &ve, &ve});
}

void TestMemory() {
  const Signature s("op", "(x: T['n', 'f32'], y: T['n']) -> None");
  const ArrayView x = Floats({4}), none(nullptr, kF32, {4}), far(memory, kF32, {4}, {kDLCUDA, 1});
  const TensorView vx = x, vn = none, vf = far;
  MLF_EXPECT_THROWS(Check(s, {&vx, &vn}), "ValueError", "y has no memory");
  MLF_EXPECT_THROWS(Check(s, {&vx, &vf}), "ValueError", "y is on device 2:1, x is on 1:0");
  int64_t shape[] = {4}, strides[] = {2};
  DLTensor strided{};
  strided.data = memory;
  strided.device = {kDLCPU, 0};
  strided.ndim = 1;
  strided.dtype = kF32;
  strided.shape = shape;
  strided.strides = strides;
  const TensorView vs(&strided);
  MLF_EXPECT_THROWS(Check(s, {&vs, &vx}), "ValueError", "x must be contiguous");
}

void TestChoices() {
  static const Op op{
      "op", "(x: T['n', 'f32'], *, how: Literal['fast', 'slow',] | None = None) -> None", ""};
  MLF_EXPECT(op.Choice("how", "fast") == 0 && op.Choice("how", "slow") == 1);
  MLF_EXPECT_THROWS(op.Choice("how", "never"), "ValueError",
                    "op: how is \"never\", expected one of 'fast', 'slow'");
  MLF_EXPECT_THROWS(op.Choice("who", "fast"), "InternalError", "who has no choices");
  MLF_EXPECT_THROWS(op.That(false, "n is ", 3), "ValueError", "op: n is 3");
}

void TestDefaults() {
  Signature signature("op");
  SignatureParser parser(signature,
                         "(x: T['n', 'f32'] | None = None, *, a: float , b: int | None = None, "
                         "c: bool=True, d: Literal['p', 'q'] = 'q' , e: float = -1.5e-06) -> None");
  parser.Parse();
  const char* expected[] = {"", "", "None", "True", "'q'", "-1.5e-06"};
  const std::vector<ArgumentSpec> arguments = parser.Arguments();
  MLF_EXPECT(arguments.size() == 6);
  for (size_t i = 0; i < arguments.size(); ++i) MLF_EXPECT(arguments[i].fallback == expected[i]);
}

void TestBadSignatures() {
  const struct {
    const char* text;
    const char* part;
  } cases[] = {
      {"", "expected '('"},
      {"(x: T['n', 'f32'])", "expected '->'"},
      {"(x: T['n', 'f32']) -> None None", "more than a signature"},
      {"(x: T['n', 'f33']) -> None", "unknown dtype f33"},
      {"(x: T['n']) -> None", "x has no dtype"},
      {"(x: T['n+1', 'f32']) -> None", "'n+1' is no dimension"},
      {"(x: T['n', 'like y']) -> None", "no tensor before is named 'y'"},
      {"(x: T['n', 'f32']) -> T['*b n']", "no tensor before has '*b'"},
      {"(x: T['n', 'f32'], *, a: double = 1) -> None", "unknown type of a"},
      {"(x: T['n', 'f32'], *, a: float = ) -> None", "expected a default"},
      {"(x: T['n', 'f32'], a: float) -> None", "a is an option before the '*'"},
      {"(x: T['n', 'f32'], x: T['n']) -> None", "a second x"},
      {"(x: T['n, 'f32']) -> None", "expected"},
      {"(x: T[]) -> None", "x has no shape"},
      {"(x: T['a b c d e f g h i j k l m n o p q', 'f32']) -> None", "too many dimensions"},
  };
  for (const auto& c : cases) MLF_EXPECT_THROWS(Signature("op", c.text), "InternalError", c.part);
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestDims();
  mlf::TestDtypes();
  mlf::TestOverlap();
  mlf::TestMemory();
  mlf::TestChoices();
  mlf::TestDefaults();
  mlf::TestBadSignatures();
}
