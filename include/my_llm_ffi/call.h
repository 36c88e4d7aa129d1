// How the C++ client calls: names found at run time, tensors on your memory, errors.
// Written by hand; ops.h and objects.h, which are generated, stand on it.
#pragma once
#include <dlfcn.h>
#include <tvm/ffi/extra/stl.h>
#include <tvm/ffi/reflection/accessor.h>
#include <tvm/ffi/tvm_ffi.h>

#include <array>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace my_llm_ffi {

/// What every call throws: kind() is the name of the Python exception, message() its text.
using tvm::ffi::Error;
using tvm::ffi::Tensor;
using tvm::ffi::TensorView;
/// A tensor that may be left out.
using OptionalTensor = std::optional<TensorView>;
/// Named values, where they are not the same in every version.
using Values = tvm::ffi::Map<tvm::ffi::String, tvm::ffi::Any>;

inline constexpr DLDevice kCpu{kDLCPU, 0};
inline constexpr DLDataType kFloat32{kDLFloat, 32, 1}, kFloat16{kDLFloat, 16, 1};
inline constexpr DLDataType kBfloat16{kDLBfloat, 16, 1}, kUint8{kDLUInt, 8, 1};
inline constexpr DLDataType kInt32{kDLInt, 32, 1}, kInt64{kDLInt, 64, 1};

/// Loads libmy_llm_ffi.so, for programs that are not linked with it. It is never unloaded.
inline void load_library(const std::string& path) {
  if (dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) != nullptr) return;
  const char* why = dlerror();
  throw Error("OSError", why != nullptr ? why : "cannot load " + path, "");
}

/// A contiguous tensor on the CPU over memory that stays yours and must outlive the view.
class CpuView {
 public:
  static constexpr int kMaxDims = 8;

  // Sizes in braces take no memory of their own, a vector of them does.
  template <typename T>
  CpuView(T* data, std::initializer_list<int64_t> shape)
      : CpuView(data, DtypeOf<T>(), shape.begin(), shape.size()) {}
  template <typename T>
  CpuView(T* data, const std::vector<int64_t>& shape)
      : CpuView(data, DtypeOf<T>(), shape.data(), shape.size()) {}
  template <typename T>
  CpuView(std::vector<T>& data, std::initializer_list<int64_t> shape)
      : CpuView(data.data(), DtypeOf<T>(), shape.begin(), shape.size()) {
    RequireCount(data.size());
  }
  template <typename T>
  CpuView(std::vector<T>& data, const std::vector<int64_t>& shape)
      : CpuView(data.data(), DtypeOf<T>(), shape.data(), shape.size()) {
    RequireCount(data.size());
  }
  /// For types that C++ has not: float16, bfloat16.
  CpuView(void* data, DLDataType dtype, std::initializer_list<int64_t> shape)
      : CpuView(data, dtype, shape.begin(), shape.size()) {}
  CpuView(void* data, DLDataType dtype, const std::vector<int64_t>& shape)
      : CpuView(data, dtype, shape.data(), shape.size()) {}

  operator TensorView() const {  // NOLINT(google-explicit-constructor): wherever one is taken
    const DLTensor tensor{data_,
                          kCpu,
                          ndim_,
                          dtype_,
                          const_cast<int64_t*>(shape_.data()),
                          const_cast<int64_t*>(strides_.data()),
                          0};
    return TensorView(&tensor);
  }

 private:
  CpuView(void* data, DLDataType dtype, const int64_t* sizes, size_t ndim)
      : data_(data), dtype_(dtype), ndim_(static_cast<int>(ndim)) {
    Require(ndim <= kMaxDims, "CpuView: more than 8 dimensions");
    for (int i = ndim_ - 1; i >= 0; --i) {
      Require(sizes[i] >= 0, "CpuView: a size is negative");
      shape_[i] = sizes[i];
      strides_[i] = count_;
      const bool overflows = __builtin_mul_overflow(count_, sizes[i], &count_);
      Require(!overflows, "CpuView: the sizes are too large");
    }
    Require(data != nullptr || count_ == 0, "CpuView: data is null");
  }

  void RequireCount(size_t count) const {
    Require(count == static_cast<size_t>(count_),
            "CpuView: the vector has another size than the shape");
  }
  static void Require(bool holds, const char* message) {
    if (!holds) Refuse(message);
  }
  [[noreturn, gnu::cold, gnu::noinline]] static void Refuse(const char* message) {
    throw Error("ValueError", message, "");
  }
  template <typename T>
  static constexpr DLDataType DtypeOf() {
    using Plain = std::remove_const_t<T>;
    static_assert(std::is_arithmetic_v<Plain> && !std::is_same_v<Plain, bool>,
                  "give the dtype: CpuView(data, kFloat16, shape)");
    constexpr uint8_t kCode = std::is_floating_point_v<Plain> ? kDLFloat
                              : std::is_signed_v<Plain>       ? kDLInt
                                                              : kDLUInt;
    return {kCode, sizeof(Plain) * 8, 1};
  }

  void* data_;
  DLDataType dtype_;
  int ndim_;
  int64_t count_ = 1;
  std::array<int64_t, kMaxDims> shape_, strides_;  // the first ndim_ of them are set
};

namespace detail {

/// A function of the registry, found by its name and kept for good. It is called through the C
/// ABI and never through its C++ entry: library and caller may be built by different compilers,
/// whose exceptions would not know each other.
class Callee {
 public:
  static Callee Function(std::string_view name) {
    const TVMFFIByteArray key{name.data(), name.size()};
    TVMFFIObjectHandle handle = nullptr;
    TVM_FFI_CHECK_SAFE_CALL(TVMFFIFunctionGetGlobal(&key, &handle));
    if (handle == nullptr) ThrowMissing(std::string(name));
    return Callee(handle);
  }

  static Callee Method(std::string_view type, std::string_view name) {
    const TVMFFIByteArray key{type.data(), type.size()};
    int32_t index = 0;
    const TVMFFITypeInfo* info = nullptr;
    if (TVMFFITypeKeyToIndex(&key, &index) == 0) {
      info = TVMFFIGetTypeInfo(index);
    } else {
      tvm::ffi::detail::MoveFromSafeCallRaised();  // says less than we do
    }
    for (int32_t i = 0; info != nullptr && i < info->num_methods; ++i) {
      const TVMFFIMethodInfo& method = info->methods[i];
      if (std::string_view(method.name.data, method.name.size) == name) {
        return Callee(method.method.v_obj);
      }
    }
    ThrowMissing(std::string(type) + "." + std::string(name));
  }

  /// Arguments are borrowed for the call.
  template <typename... Args>
  tvm::ffi::Any operator()(const Args&... args) const {
    const tvm::ffi::AnyView packed[sizeof...(args) + 1] = {tvm::ffi::AnyView(args)...};
    tvm::ffi::Any result;
    Run(packed, sizeof...(args), &result);
    return result;
  }

  /// A method of an object and any number of tensors.
  tvm::ffi::Any Spread(const tvm::ffi::ObjectRef& object,
                       const std::vector<TensorView>& tensors) const {
    std::vector<tvm::ffi::AnyView> packed{object};
    packed.insert(packed.end(), tensors.begin(), tensors.end());
    tvm::ffi::Any result;
    Run(packed.data(), packed.size(), &result);
    return result;
  }

 private:
  void Run(const tvm::ffi::AnyView* args, size_t count, tvm::ffi::Any* result) const {
    if (call_(handle_, reinterpret_cast<const TVMFFIAny*>(args), static_cast<int32_t>(count),
              reinterpret_cast<TVMFFIAny*>(result)) != 0) {
      ThrowRaised();
    }
  }

  [[noreturn, gnu::cold, gnu::noinline]] static void ThrowRaised() {
    throw tvm::ffi::detail::MoveFromSafeCallRaised();
  }

  explicit Callee(TVMFFIObjectHandle handle)
      : handle_(handle), call_(TVMFFIFunctionGetCellPtr(handle)->safe_call) {}

  [[noreturn, gnu::cold, gnu::noinline]] static void ThrowMissing(const std::string& name) {
    throw Error("RuntimeError",
                "there is no " + name +
                    ": link with libmy_llm_ffi.so or call my_llm_ffi::load_library() first; a "
                    "library of an older release may lack it",
                "");
  }

  TVMFFIObjectHandle handle_;
  TVMFFISafeCallType call_;
};

/// Names of an enum's values; kFirst is the number of the first.
template <typename Enum>
struct Names;

}  // namespace detail

/// The name of an enum's value, as Python and the library spell it; "?" for one that this header
/// does not know yet.
template <typename Enum>
const char* name(Enum value) {
  using Names = detail::Names<Enum>;
  const auto index = static_cast<uint64_t>(static_cast<int64_t>(value) - Names::kFirst);
  return index < std::size(Names::kAll) ? Names::kAll[index] : "?";
}

/// The value that a name stands for; ValueError when there is none.
template <typename Enum>
Enum parse(std::string_view text) {
  using Names = detail::Names<Enum>;
  std::string all;
  for (size_t i = 0; i < std::size(Names::kAll); ++i) {
    if (text == Names::kAll[i]) return static_cast<Enum>(Names::kFirst + static_cast<int64_t>(i));
    all += (i == 0 ? "" : ", ") + ("'" + std::string(Names::kAll[i]) + "'");
  }
  throw Error("ValueError", "\"" + std::string(text) + "\" is none of " + all, "");
}

namespace detail {

/// A choice as the library takes it: its name, or None.
template <typename Enum>
const char* NameOf(Enum value) {
  return name(value);
}
template <typename Enum>
std::optional<tvm::ffi::String> NameOf(const std::optional<Enum>& value) {
  if (!value) return std::nullopt;
  return tvm::ffi::String(name(*value));
}

}  // namespace detail
}  // namespace my_llm_ffi
