// Tests of src/base/memory_guard: what cannot be allocated is a MemoryError, the rest stays itself.
#include "base/memory_guard.h"

#include <string>
#include <vector>

#include "base/buffer.h"
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
  const auto pointer = ffi::Function::FromTyped(MemoryGuarded("fail", Fail));
  const auto lambda = ffi::Function::FromTyped(
      MemoryGuarded("lambda", [](const ffi::String& text, int64_t how) -> ffi::String {
        Fail(how);
        return text;
      }));
  MLF_EXPECT_THROWS(pointer(1), "MemoryError", "fail: the system has no memory left");
  MLF_EXPECT_THROWS(pointer(2), "MemoryError", "fail: asks for more memory than there can be");
  MLF_EXPECT_THROWS(pointer(3), "IndexError", "its own");
  MLF_EXPECT_THROWS(lambda("x", 1), "MemoryError", "lambda: the system has no memory left");
  pointer(0);
  MLF_EXPECT(lambda("as it was", 0).cast<ffi::String>() == "as it was");
  bool other = false;
  try {
    MemoryGuarded("fail", Fail)(4);
  } catch (const std::runtime_error&) {
    other = true;
  }
  MLF_EXPECT(other);
}

void TestSignatureIsKept() {
  using Guarded = decltype(MemoryGuarded("f", [](const ffi::String&, int64_t) { return 1.5; }));
  static_assert(std::is_same_v<decltype(&Guarded::operator()),
                               double (Guarded::*)(const ffi::String&, int64_t) const>);
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
