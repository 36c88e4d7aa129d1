// What crosses the border: functions of the registry offer the C ABI alone, both ways.
#include "base/registry.h"

#include <memory>
#include <string>

#include "check.h"

namespace mlf {
namespace {

/// Of a program that was built by another compiler, this would be an exception nobody here knows.
ffi::Function Thrower() {
  return ffi::Function::FromTyped([](int64_t x) -> int64_t {
    if (x < 0) TVM_FFI_THROW(ValueError) << "x is " << x;
    return x + 1;
  });
}

void TestThroughC() {
  const ffi::Function through = ThroughC(Thrower());
  MLF_EXPECT(Thrower().get()->cpp_call != nullptr && through.get()->cpp_call == nullptr);
  MLF_EXPECT(through(int64_t{4}).cast<int64_t>() == 5);
  MLF_EXPECT_THROWS(through(int64_t{-4}), "ValueError", "x is -4");
  MLF_EXPECT(ThroughC(through).get() == through.get());
  MLF_EXPECT(ThroughC(ffi::Function(nullptr)) == nullptr);
}

void TestWhatIsHeldIsReleased() {
  const auto held = std::make_shared<int>(0);
  {
    const ffi::Function through = ThroughC(ffi::Function::FromTyped([held] { return 1; }));
    MLF_EXPECT(held.use_count() == 2 && through().cast<int>() == 1);
  }
  MLF_EXPECT(held.use_count() == 1);
}

/// What a function is given is called by the C ABI too.
void TestCallbacks() {
  const auto by_c = [](const ffi::Function& f) { return f.get()->cpp_call == nullptr; };
  const GuardedFunction call(
      "call",
      [by_c](const ffi::Function& callback, const ffi::Optional<ffi::Function>& other) -> bool {
        return by_c(callback) && (!other.has_value() || by_c(*other));
      });
  MLF_EXPECT(call.function()(Thrower(), Thrower()).cast<bool>());
  MLF_EXPECT(call.function()(Thrower(), nullptr).cast<bool>());
}

void TestWhatIsRegistered() {
  for (const char* name : {"rms_norm", "log", "format_block", "declare_op", "functional_op"}) {
    const auto function = ffi::Function::GetGlobalRequired(std::string("my_llm_ffi.") + name);
    MLF_EXPECT(function.get()->cpp_call == nullptr);
  }
  const TVMFFIByteArray key{"my_llm_ffi.Plan", 15};
  int32_t index = 0;
  MLF_EXPECT(TVMFFITypeKeyToIndex(&key, &index) == 0);
  const TVMFFITypeInfo* type = TVMFFIGetTypeInfo(index);
  MLF_EXPECT(type->num_methods > 3);
  for (int32_t i = 0; i < type->num_methods; ++i) {
    const auto method = ffi::AnyView::CopyFromTVMFFIAny(type->methods[i].method);
    MLF_EXPECT(method.cast<ffi::Function>().get()->cpp_call == nullptr);
  }
}

}  // namespace
}  // namespace mlf

int main() {
  mlf::TestThroughC();
  mlf::TestWhatIsHeldIsReleased();
  mlf::TestCallbacks();
  mlf::TestWhatIsRegistered();
  return 0;
}
