// Plans without Python: sizes, places of buffers, runs, files whole and damaged.
#include "plan/plan.h"

#include <cstring>
#include <fstream>
#include <iterator>
#include <random>

#include "base/dtype.h"
#include "base/op.h"
#include "check.h"
#include "plan/plan_file.h"
#include "temp_dir.h"

namespace mlf {
namespace {

using test::TempDir;

constexpr int kMutations = 20000;

// ---- ops of this test ---------------------------------------------------------------------------

const Op kSum{"test_sum", "(x: T['n m', 'f32'], y: T['n m'], *, scale: float = 1.0) -> T['n m']",
              "Adds.\n"};

void Sum(TensorView x, TensorView y, TensorView out, double scale) {
  kSum.Check(x, y, out);
  for (int64_t i = 0; i < out.numel(); ++i) {
    Data<float>(out)[i] = static_cast<float>(scale) * (Data<float>(x)[i] + Data<float>(y)[i]);
  }
}

const Op kGrow{"test_grow", "(x: Mut['n m', 'f32'], *, mode: Literal['up'] = 'up') -> None",
               "Adds one.\n"};

void Grow(TensorView x, ffi::String mode) {
  kGrow.Check(x).Choice("mode", mode);
  for (int64_t i = 0; i < x.numel(); ++i) Data<float>(x)[i] += 1;
}

/// No op: writes wherever it likes.
void Overwrite(TensorView x, TensorView out) {
  for (int64_t i = 0; i < out.numel(); ++i) Data<float>(out)[i] = Data<float>(x)[i];
  for (int64_t i = 0; i < x.numel(); ++i) Data<float>(x)[i] = -1;
}

TVM_FFI_STATIC_INIT_BLOCK() {
  kSum.Register(Sum);
  kGrow.Register(Grow);
  FunctionDef().def("plan_test.overwrite", Overwrite, "(x): writes over it");
}

// ---- arrays and programs ------------------------------------------------------------------------

/// A tensor on the heap, of exactly its size, where a sanitizer sees the first byte too far.
struct Rows {
  explicit Rows(int64_t n, float first = 0) : shape{n, 4}, values(4 * n) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = first + static_cast<float>(i);
    tensor = {values.data(), {kDLCPU, 0}, 2, kF32, shape, nullptr, 0};
  }
  Rows(const Rows&) = delete;
  int64_t shape[2];
  std::vector<float> values;
  DLTensor tensor{};
};

/// Zeros [n, 4] that a plan may keep.
ffi::Tensor Owned(int64_t n) {
  struct Memory {
    std::vector<float> values{};
    void AllocData(DLTensor* t) {
      values.resize(t->shape[0] * t->shape[1]);
      t->data = values.data();
    }
    void FreeData(DLTensor*) {}
  };
  return ffi::Tensor::FromNDAlloc(Memory(), ffi::Shape({n, 4}), kF32, DLDevice{kDLCPU, 0});
}

using Sizes = std::vector<std::string>;

PlanTensorIndex At(int32_t index) { return {index}; }

Program::Constant ConstantOf(std::initializer_list<float> values) {
  const auto owner = std::make_shared<std::vector<float>>(values);
  return {owner, reinterpret_cast<const uint8_t*>(owner->data()),
          static_cast<int64_t>(owner->size() * sizeof(float))};
}

/// out = 2 * ((x + bias) + x) + 1 over [n, 4], in three buffers; bias is a parameter [n, 4].
Program SmallProgram() {
  Program p;
  const int32_t x = p.AddInput("x", kF32, Sizes{"n", "4"});
  const int32_t bias = p.AddParameter("bias", kF32, Sizes{"n", "4"});
  p.AddConstant("unused", kF32, Sizes{"3"}, ConstantOf({1, 2, 3}));
  const int32_t a = p.AddBuffer(kF32, Sizes{"n", "4"}), b = p.AddBuffer(kF32, Sizes{"n * 4"}),
                b_rows = p.AddView(b, Sizes{"n", "4"}, "0"),
                out = p.AddBuffer(kF32, Sizes{"n", "2 * 2"});
  const Permission none;
  p.AddCall("my_llm_ffi.test_sum", {At(x), At(bias), At(a), 1.0}, none);
  p.AddCall("my_llm_ffi.test_sum", {At(a), At(x), At(b_rows), int64_t{2}}, none);
  p.AddCall("my_llm_ffi.test_grow", {At(b_rows), std::string("up")}, none);
  const int32_t zero = p.AddConstant("zero", kF32, Sizes{"1", "4"}, ConstantOf({0, 0, 0, 0}));
  p.AddCall("my_llm_ffi.test_sum",
            {At(p.AddView(b, Sizes{"1", "4"}, "0")), At(zero),
             At(p.AddView(out, Sizes{"1", "4"}, "0")), 1.0},
            none);
  const Sizes rest{"n - 1", "4"};
  const int32_t zeros = p.AddBuffer(kF32, rest);
  p.AddCall("my_llm_ffi.test_sum",
            {At(p.AddView(x, rest, "4")), At(p.AddView(x, rest, "4")), At(zeros), 0.0}, none);
  p.AddCall("my_llm_ffi.test_sum",
            {At(p.AddView(b, rest, "4")), At(zeros), At(p.AddView(out, rest, "4")), 1.0}, none);
  p.AddOutput("out", out);
  return p;
}

void RunAndCheck(Plan& plan, int64_t n) {
  Rows x(n), bias(n, 10), out(n);
  const ffi::Tensor bound = Owned(n);
  std::copy(bias.values.begin(), bias.values.end(), static_cast<float*>(bound.data_ptr()));
  plan.Bind("bias", bound);
  const DLTensor *inputs[] = {&x.tensor}, *outputs[] = {&out.tensor};
  for (int again = 0; again < 2; ++again) plan.Run(inputs, outputs);
  for (size_t i = 0; i < out.values.size(); ++i) {
    MLF_EXPECT(out.values[i] == 2 * (2 * x.values[i] + bias.values[i]) + 1);
  }
}

// ---- parts --------------------------------------------------------------------------------------

int64_t Evaluated(const char* text, std::vector<int64_t> values) {
  std::vector<std::string> names{"n", "m"};
  return SizeExpression::Parse(text, false, &names).Evaluate(values);
}

void TestSizes() {
  MLF_EXPECT(Evaluated("7", {0, 0}) == 7);
  MLF_EXPECT(Evaluated(" n ", {5, 0}) == 5);
  MLF_EXPECT(Evaluated("n + m * 2 - 1", {5, 3}) == 10);
  MLF_EXPECT(Evaluated("(n + 31) // 32 * 32", {33, 0}) == 64);
  MLF_EXPECT(Evaluated("n - m - 1", {5, 3}) == 1);
  MLF_EXPECT(Evaluated("(n - m) // 2", {0, 3}) == -2);
  MLF_EXPECT_THROWS(Evaluated("n // m", {1, 0}), "ValueError", "divides by 0");
  MLF_EXPECT_THROWS(Evaluated("n // m", {INT64_MIN, -1}), "ValueError", "divides by -1");
  MLF_EXPECT_THROWS(Evaluated("n * m", {INT64_MAX, 2}), "ValueError", "does not fit 64 bits");
  MLF_EXPECT_THROWS(Evaluated("n - m", {INT64_MIN, 1}), "ValueError", "does not fit 64 bits");
  for (const char* bad :
       {"", "k", "n m", "n +", "* n", "(n", "n)", "n % 2", "-1", "1.5", "n\xff"}) {
    MLF_EXPECT_THROWS(Evaluated(bad, {1, 1}), "ValueError", "is no expression of sizes");
  }
}

void TestPlaces() {
  std::mt19937 random(0);
  for (int turn = 0; turn < 200; ++turn) {
    std::vector<BufferLife> lives;
    for (int32_t first = 0; first < 40; first += static_cast<int32_t>(random() % 3)) {
      lives.push_back({first, first + static_cast<int32_t>(random() % 8),
                       static_cast<int64_t>(random() % 1000)});
    }
    const int64_t total = PlaceBuffers(lives);
    int64_t most = 0, all = 0;  // alive at once, and of all
    for (const BufferLife& a : lives) {
      MLF_EXPECT(a.offset >= 0 && a.offset % 64 == 0 && a.offset + a.bytes <= total);
      int64_t alive = 0;
      all += (a.bytes + 63) / 64 * 64;
      for (const BufferLife& b : lives) {
        if (b.first <= a.first && a.first <= b.last) alive += b.bytes;
        if (&a == &b || a.last < b.first || b.last < a.first || a.bytes == 0 || b.bytes == 0)
          continue;
        MLF_EXPECT(a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset);
      }
      most = std::max(most, alive);
    }
    MLF_EXPECT(total >= most && total <= all);
  }
  std::vector<BufferLife> huge{{0, 1, INT64_MAX}};
  MLF_EXPECT_THROWS(PlaceBuffers(huge), "ValueError", "more than any memory");
  huge = {{0, 1, int64_t{1} << 60}, {0, 1, int64_t{1} << 60}};
  MLF_EXPECT_THROWS(PlaceBuffers(huge), "ValueError", "more than any memory");
}

void TestRuns() {
  Plan plan(SmallProgram());
  for (const int64_t n : {1, 7, 7, 3, 1000, 2}) RunAndCheck(plan, n);
  MLF_EXPECT(plan.storage_bytes() > 0);
  Rows x(2), wrong(3);
  const DLTensor *inputs[] = {&x.tensor}, *outputs[] = {&wrong.tensor};
  MLF_EXPECT_THROWS(plan.Run(inputs, outputs), "ValueError", "output \"out\" has shape [3, 4]");
  MLF_EXPECT_THROWS(plan.Run({}, outputs), "ValueError", "got 0 inputs, expected 1");
  MLF_EXPECT_THROWS(plan.Run(inputs, inputs), "ValueError", "overlaps input \"x\"");
  x.tensor.data = nullptr;
  MLF_EXPECT_THROWS(plan.Run(inputs, outputs), "ValueError", "has no memory");
  RunAndCheck(plan, 5);
}

void TestConstantsOfOthersAreCopies() {
  Program p;
  const int32_t w = p.AddConstant("w", kF32, Sizes{"1", "4"}, ConstantOf({1, 2, 3, 4})),
                out = p.AddBuffer(kF32, Sizes{"1", "4"});
  MLF_EXPECT_THROWS(p.AddCall("plan_test.overwrite", {At(w), At(out)}, {}), "ValueError",
                    "no op of this library");
  p.AddCall("plan_test.overwrite", {At(w), At(out)}, Permission::All());
  p.AddOutput("out", out);
  Plan plan(p);
  Rows result(1);
  const DLTensor* outputs[] = {&result.tensor};
  plan.Run({}, outputs);
  MLF_EXPECT(result.values[3] == 4);
  MLF_EXPECT(reinterpret_cast<const float*>(p.tensors()[w].data)[3] == 4);
}

void TestRefusals() {
  Program p = SmallProgram();
  const Permission none;
  const std::string sum = "my_llm_ffi.test_sum";
  MLF_EXPECT_THROWS(p.AddCall(sum, {At(0)}, none), "ValueError",
                    "step 6 (my_llm_ffi.test_sum): has 1 arguments, expected 4");
  MLF_EXPECT_THROWS(p.AddCall(sum, {At(0), At(99), At(3), 1.0}, none), "ValueError",
                    "there is no tensor 99");
  MLF_EXPECT_THROWS(p.AddCall(sum, {At(0), At(-1), At(3), 1.0}, none), "ValueError",
                    "there is no tensor -1");
  MLF_EXPECT_THROWS(p.AddCall(sum, {At(0), At(1), At(2), 1.0}, none), "ValueError",
                    "writes out to constant \"unused\"");
  MLF_EXPECT_THROWS(p.AddCall(sum, {At(0), At(1), At(3), std::monostate()}, none), "ValueError",
                    "argument 3 is None, expected float");
  MLF_EXPECT_THROWS(p.AddCall("my_llm_ffi.declare_op", {}, none), "ValueError", "no op");
  MLF_EXPECT_THROWS(p.AddView(77, Sizes{"1"}, "0"), "ValueError", "there is no tensor 77");
  MLF_EXPECT_THROWS(p.AddInput("x", kF32, Sizes{}), "ValueError", "another tensor has this name");
  MLF_EXPECT_THROWS(p.AddInput("y", DLDataType{kDLFloat, 32, 4}, Sizes{}), "ValueError", "dtype");
  MLF_EXPECT_THROWS(p.AddInput("y", kF32, Sizes(17, "1")), "ValueError", "17 dimensions");
  MLF_EXPECT_THROWS(p.AddConstant("c", kF32, Sizes{"5"}, ConstantOf({1})), "ValueError",
                    "has 4 bytes, expected 20");
  MLF_EXPECT_THROWS(p.AddOutput("bias", 1), "ValueError", "expected a buffer or an input");
  Plan plan(p);
  RunAndCheck(plan, 3);
}

// ---- files --------------------------------------------------------------------------------------

std::string BytesOf(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

enum class Outcome { kRan, kOpened, kRefused };

Outcome Open(const TempDir& dir, const std::string& bytes) {
  const std::string path = dir.Write("damaged.plan", bytes);
  std::unique_ptr<Plan> plan;
  try {
    plan = std::make_unique<Plan>(ReadPlanFile(path, {}));
  } catch (const ffi::Error& error) {
    MLF_EXPECT(error.kind() == "ValueError" || error.kind() == "NotImplementedError");
    MLF_EXPECT(std::string(error.message()).find("at byte ") != std::string::npos);
    return Outcome::kRefused;
  }
  std::vector<std::unique_ptr<Rows>> rows;
  std::vector<const DLTensor*> inputs, outputs;
  const auto add = [&](std::vector<const DLTensor*>& to, size_t n) {
    while (to.size() < n) {
      rows.push_back(std::make_unique<Rows>(3));
      to.push_back(&rows.back()->tensor);
    }
  };
  add(inputs, plan->inputs().size());
  add(outputs, plan->made().size());
  try {
    for (const int32_t i : plan->parameters()) {
      plan->Bind(plan->program().tensors()[i].name, Owned(3));
    }
    plan->Run(inputs, outputs);
    return Outcome::kRan;
  } catch (const ffi::Error& error) {
    MLF_EXPECT(error.kind() == "ValueError" || error.kind() == "TypeError");
    return Outcome::kOpened;
  }
}

void Repair(std::string* bytes) {
  uint64_t size = 0, hash = 0xcbf29ce484222325;
  std::memcpy(&size, bytes->data() + 32, sizeof size);
  for (uint64_t i = 64; i < 64 + size && i < bytes->size(); ++i) {
    hash = (hash ^ static_cast<uint8_t>((*bytes)[i])) * 0x100000001b3;
  }
  std::memcpy(bytes->data() + 40, &hash, sizeof hash);
}

void TestFiles(const TempDir& dir) {
  WritePlanFile(dir.Path("small.plan"), SmallProgram());
  const std::string whole = BytesOf(dir.Path("small.plan"));
  {
    Plan plan(ReadPlanFile(dir.Path("small.plan"), {}));
    RunAndCheck(plan, 6);
    WritePlanFile(dir.Path("small.plan"), plan.program());  // over the file that it maps
    RunAndCheck(plan, 4);
  }
  MLF_EXPECT(BytesOf(dir.Path("small.plan")) == whole);
  MLF_EXPECT(Open(dir, whole) == Outcome::kRan);
  for (size_t size = 0; size < whole.size(); ++size) {
    MLF_EXPECT(Open(dir, whole.substr(0, size)) == Outcome::kRefused);
  }
}

void TestMutations(const TempDir& dir) {
  WritePlanFile(dir.Path("small.plan"), SmallProgram());
  const std::string whole = BytesOf(dir.Path("small.plan"));
  constexpr uint64_t kTelling[] = {0,         1, 2, 0xFF, 0xFFFFFFFF, INT64_MAX, uint64_t{1} << 63,
                                   UINT64_MAX};
  std::mt19937_64 random(1);
  int refused = 0, ran = 0;
  for (int i = 0; i < kMutations; ++i) {
    std::string bytes = whole;
    for (uint64_t n = 1 + random() % 3; n > 0; --n) {
      const uint64_t width = uint64_t{1} << random() % 4,
                     at = random() % (bytes.size() - width + 1),
                     value = random() % 2 == 0 ? random() : kTelling[random() % 8];
      std::memcpy(bytes.data() + at, &value, width);
    }
    if (random() % 8 != 0) Repair(&bytes);
    const Outcome outcome = Open(dir, bytes);
    refused += outcome == Outcome::kRefused ? 1 : 0;
    ran += outcome == Outcome::kRan ? 1 : 0;
  }
  MLF_EXPECT(refused > kMutations / 2 && ran > kMutations / 100);
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestSizes();
  mlf::TestPlaces();
  mlf::TestRuns();
  mlf::TestConstantsOfOthersAreCopies();
  mlf::TestRefusals();
  const mlf::TempDir dir;
  mlf::TestFiles(dir);
  mlf::TestMutations(dir);
  return 0;
}
