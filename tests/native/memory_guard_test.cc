// Tests of src/base/memory_guard: what cannot be allocated is a MemoryError, the rest stays itself.
#include "base/memory_guard.h"

#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/registry.h"
#include "check.h"

namespace mlf {
namespace {

namespace ffi = tvm::ffi;

void Fail(int64_t how) {
  if (how == 1) throw std::bad_alloc();
  if (how == 2) std::string().resize(std::string().max_size() + 1);
  if (how == 3) TVM_FFI_THROW(IndexError) << "its own";
  if (how == 4) throw std::runtime_error("a bug");
}

void TestKinds() {
  // As registered: a function pointer and a lambda, through the C ABI.
  const auto pointer = GuardedFunction("fail", Fail).function();
  const GuardedFunction guarded("lambda", [](const ffi::String& text, int64_t how) -> ffi::String {
    Fail(how);
    return text;
  });
  const ffi::Function& lambda = guarded.function();
  MLF_EXPECT_THROWS(pointer(1), "MemoryError", "fail: the system has no memory left");
  MLF_EXPECT_THROWS(pointer(2), "MemoryError", "fail: asks for more memory than there can be");
  MLF_EXPECT_THROWS(pointer(3), "IndexError", "its own");
  MLF_EXPECT_THROWS(lambda("x", 1), "MemoryError", "lambda: the system has no memory left");
  pointer(0);
  MLF_EXPECT(lambda("as it was", 0).cast<ffi::String>() == "as it was");
  MLF_EXPECT_THROWS(pointer(4), "InternalError", "a bug");
}

void TestSignatureIsKept() {
  const GuardedFunction guarded("f", [](const ffi::String&, int64_t) { return 1.5; });
  using Plain = ffi::detail::FunctionInfo<double (*)(const ffi::String&, int64_t)>;
  MLF_EXPECT(guarded.schema() == Plain::TypeSchema());
}

void TestPurpose() {
  constexpr int64_t kTooMuch = int64_t{1} << 60;
  MLF_EXPECT_THROWS(Buffer{kTooMuch}, "MemoryError", "cannot allocate 1099511627776 MiB (");
  MLF_EXPECT_THROWS(Buffer::For("a hall", kTooMuch), "MemoryError",
                    "a hall: cannot allocate 10995");
  MLF_EXPECT_THROWS(Buffer::For("a hall", -1), "InternalError", "negative size");
  MLF_EXPECT(Buffer::For("a room", 100).bytes() == 100);
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestKinds();
  mlf::TestSignatureIsKept();
  mlf::TestPurpose();
  return 0;
}
