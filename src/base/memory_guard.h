// Failures to allocate as an error of its own. Counterpart: registry.h.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace mlf {

[[noreturn, gnu::cold, gnu::noinline]] inline void ThrowNoMemory(const std::string& call,
                                                                 const char* why) {
  TVM_FFI_THROW(MemoryError) << call << ": " << why;
}

/// Calls fn(); a std::bad_alloc or std::length_error out of it becomes a MemoryError that names
/// `call`. tvm-ffi would report both as an InternalError, a bug of this library.
template <typename Fn>
[[gnu::always_inline]] inline decltype(auto) WithMemoryErrors(const std::string& call, Fn&& fn) {
  try {
    return std::forward<Fn>(fn)();
  } catch (const std::bad_alloc&) {
    ThrowNoMemory(call, "the system has no memory left for what this call needs");
  } catch (const std::length_error&) {
    ThrowNoMemory(call, "asks for more memory than there can be");
  }
}

}  // namespace mlf
