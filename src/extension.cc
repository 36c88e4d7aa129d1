// Version, build information and the walk-through of tvm-ffi's packaging guide: one function per
// thing that crosses the border. Nobody includes this file. Counterpart: walkthrough.py.
#include <tvm/ffi/tvm_ffi.h>

#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "base/cpu.h"
#include "base/device_library.h"
#include "base/registry.h"
#include "base/signature.h"

namespace mlf {
namespace {

namespace refl = tvm::ffi::reflection;

// ---- build information --------------------------------------------------------------------------

ffi::Map<ffi::String, ffi::Any> BuildInfo() {
  return {{"version", ffi::String(MLF_VERSION)},
          {"cpu_level", ffi::String(CpuLevelName(CpuLevelInUse()))},
          {"cpu_levels", ffi::String(MLF_LEVEL_LIST)},
          {"cuda", ffi::String(CudaLibraryStatus())},
          {"compiler", ffi::String(MLF_COMPILER)},
          {"tvm_ffi", ffi::String(MLF_TVM_FFI_VERSION)}};
}

// ---- tensors ------------------------------------------------------------------------------------

const Signature kAddOne{"add_one", "(x: T['n', 'f32']) -> {'y': T['n', 'may be x']}"};

/// y = x + 1 over float32 vectors on the CPU. y may be x itself; any other overlap is refused,
/// because the result would depend on the order of the loop.
void AddOne(TensorView x, TensorView y) {
  const TensorView* tensors[] = {&x, &y};
  kAddOne.Check(tensors, 2);
  if (x.device().device_type != kDLCPU) {
    TVM_FFI_THROW(NotImplementedError)
        << "add_one: x is on device type " << x.device().device_type << ", expected the CPU";
  }
  const auto* in = Data<const float>(x);
  auto* out = Data<float>(y);
  for (int64_t i = 0; i < x.size(0); ++i) out[i] = in[i] + 1.0f;
}

// ---- errors -------------------------------------------------------------------------------------

/// Throws an error of any kind; the caller's traceback shows this file, line and function.
void RaiseError(const ffi::String& kind, const ffi::String& message) {
  throw ffi::Error(std::string(kind), std::string(message),
                   TVMFFIBacktrace(__FILE__, __LINE__, TVM_FFI_FUNC_SIG, 0));
}

// ---- strings, tuples, dicts ---------------------------------------------------------------------

ffi::String JoinStrings(const ffi::Array<ffi::String>& parts, const ffi::String& separator) {
  std::string joined;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i != 0) joined.append(separator.data(), separator.size());
    joined.append(parts[i].data(), parts[i].size());
  }
  return joined;
}

ffi::Tuple<ffi::Any, ffi::Any> SwapPair(const ffi::Tuple<ffi::Any, ffi::Any>& pair) {
  return ffi::Tuple<ffi::Any, ffi::Any>(pair.get<1>(), pair.get<0>());
}

ffi::Map<int64_t, ffi::String> InvertDict(const ffi::Map<ffi::String, int64_t>& mapping) {
  ffi::Map<int64_t, ffi::String> inverted;
  for (const auto& [name, number] : mapping) {
    if (inverted.count(number) != 0) {
      TVM_FFI_THROW(ValueError) << "invert_dict: the value " << number << " occurs twice";
    }
    inverted.Set(number, name);
  }
  return inverted;
}

// ---- an object ----------------------------------------------------------------------------------

class IntPairObj : public ffi::Object {
 public:
  int64_t first = 0;
  int64_t second = 0;

  int64_t GetFirst() const { return first; }

  static constexpr bool _type_mutable = true;
  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("my_llm_ffi.IntPair", IntPairObj, ffi::Object);
};

class IntPair : public ffi::ObjectRef {
 public:
  TVM_FFI_DEFINE_OBJECT_REF_METHODS_NOTNULLABLE(IntPair, ffi::ObjectRef, IntPairObj);
};

int64_t StaticGetSecond(const IntPair& pair) { return pair->second; }

// ---- callbacks ----------------------------------------------------------------------------------

/// None arrives as a function that is not there.
void RequireCallback(const char* name, const ffi::Function& callback) {
  if (callback == nullptr) {
    TVM_FFI_THROW(TypeError) << name << ": callback is None, expected a function";
  }
}

ffi::Any CallWith(const ffi::Function& callback, const ffi::Any& value) {
  RequireCallback("call_with", callback);
  return callback(value);
}

/// Calls callback(thread, i) for i < n_calls from each of n_threads threads and adds up the
/// results. An exception must not leave a std::thread: the first one is carried to the caller.
int64_t CallFromThreads(const ffi::Function& callback, int64_t n_threads, int64_t n_calls) {
  RequireCallback("call_from_threads", callback);
  if (n_threads < 0 || n_threads > 64 || n_calls < 0) {
    TVM_FFI_THROW(ValueError) << "call_from_threads: n_threads is " << n_threads << ", n_calls is "
                              << n_calls << "; expected 0 to 64, and at least 0";
  }
  std::vector<int64_t> sums(n_threads, 0);
  std::vector<std::exception_ptr> errors(n_threads);
  std::vector<std::thread> threads;
  threads.reserve(n_threads);
  std::exception_ptr not_started;
  for (int64_t t = 0; t < n_threads && !not_started; ++t) {
    const auto run = [&, t] {
      try {
        for (int64_t i = 0; i < n_calls; ++i) sums[t] += callback(t, i).cast<int64_t>();
      } catch (...) {
        errors[t] = std::current_exception();
      }
    };
    try {
      threads.emplace_back(run);
    } catch (...) {  // the system has no thread left: those that run must be joined all the same
      not_started = std::current_exception();
    }
  }
  for (std::thread& thread : threads) thread.join();
  if (not_started) std::rethrow_exception(not_started);
  int64_t total = 0;
  for (int64_t t = 0; t < n_threads; ++t) {
    if (errors[t]) std::rethrow_exception(errors[t]);
    total += sums[t];
  }
  return total;
}

/// Names of the parameters and what a function does, for those who ask the registry.
Notes Doc(const char* text) { return {{"doc", text}}; }

TVM_FFI_STATIC_INIT_BLOCK() {
  FunctionDef()
      .def(
          "my_llm_ffi.version", [] { return ffi::String(MLF_VERSION); },
          Doc("(): The version of the library."))
      .def("my_llm_ffi.build_info", BuildInfo,
           Doc("(): Version, CPU level in use and available, CUDA, compiler, tvm-ffi: by "
               "name."))
      .def("my_llm_ffi.add_one", AddOne,
           Doc("(x, y): y = x + 1 over float32 vectors on the CPU; y may be x itself."))
      .def("my_llm_ffi.raise_error", RaiseError,
           Doc("(kind, message): Throws an error of any kind."))
      .def("my_llm_ffi.join_strings", JoinStrings,
           Doc("(parts, separator): The parts with the separator between them."))
      .def("my_llm_ffi.swap_pair", SwapPair, Doc("(pair): The pair with its ends swapped."))
      .def("my_llm_ffi.invert_dict", InvertDict,
           Doc("(mapping): Names by number from numbers by name; ValueError where a number "
               "occurs twice."))
      .def("my_llm_ffi.call_with", CallWith,
           Doc("(callback: Callable[[Any], Any], value): What callback(value) returns."))
      .def("my_llm_ffi.call_from_threads", CallFromThreads,
           Doc("(callback: Callable[[int, int], int], n_threads, n_calls): The sum of "
               "callback(thread, i) for i < n_calls from each of n_threads threads."));
  refl::ObjectDef<IntPairObj>()
      .def_rw("first", &IntPairObj::first, "The first number.")
      .def_rw("second", &IntPairObj::second, "The second number.")
      .def("get_first", &IntPairObj::GetFirst, "(): The first number, through a method.")
      .def_static("static_get_second", StaticGetSecond, "(pair): The second number of a pair.");
}

}  // namespace
}  // namespace mlf

// Exported by symbol as well, for callers that load the file and know no registry. tvm-ffi's macros
// leave parameters of the C calling convention unused, which clang reports here.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
TVM_FFI_DLL_EXPORT_TYPED_FUNC(add_one, mlf::AddOne)
TVM_FFI_DLL_EXPORT_TYPED_FUNC_DOC(
    add_one, "add_one(x, y): y = x + 1 over float32 vectors on the CPU; y may be x itself.")
#pragma GCC diagnostic pop
