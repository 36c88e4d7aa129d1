// The one place where a run-time dtype becomes a C++ type. Storage types here; arithmetic happens
// in float.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include <cstdint>
#include <string>
#include <type_traits>

#include "base/half.h"

namespace mlf {

inline constexpr DLDataType kF32{kDLFloat, 32, 1};
inline constexpr DLDataType kF16{kDLFloat, 16, 1};
inline constexpr DLDataType kBF16{kDLBfloat, 16, 1};
inline constexpr DLDataType kI32{kDLInt, 32, 1};
inline constexpr DLDataType kI64{kDLInt, 64, 1};
inline constexpr DLDataType kU8{kDLUInt, 8, 1};

/// Name of a dtype for messages. Cannot throw: tvm-ffi's own printer throws on some codes, and a
/// throw inside the construction of an error would end the process.
inline std::string DtypeName(DLDataType t) {
  static constexpr const char* kCodes[] = {"int",    "uint",    "float", "handle",
                                           "bfloat", "complex", "bool"};
  std::string name = t.code < 7 ? kCodes[t.code] : "dtype" + std::to_string(t.code) + "_";
  if (!(t.code == kDLBool && t.bits == 8)) name += std::to_string(t.bits);
  return t.lanes == 1 ? name : name + "x" + std::to_string(t.lanes);
}

inline int64_t DtypeBytes(DLDataType t) { return (int64_t{t.bits} * t.lanes + 7) / 8; }

template <typename T>
MLF_HOST_DEVICE T FromFloat(float f) {
  if constexpr (std::is_same_v<T, float>) {
    return f;
  } else {
    return T::From(f);
  }
}

/// Calls fn.template operator()<T>() with the C++ type of `dtype`: float, F16 or BF16.
template <typename Fn>
void DispatchFloat(DLDataType dtype, Fn&& fn) {
  if (dtype == kF32) return fn.template operator()<float>();
  if (dtype == kF16) return fn.template operator()<F16>();
  if (dtype == kBF16) return fn.template operator()<BF16>();
  TVM_FFI_THROW(InternalError) << "DispatchFloat: " << DtypeName(dtype)
                               << " passed validation by mistake";
}

}  // namespace mlf
