// A nanobind extension beside my_llm_ffi, in one process: it calls ops and methods of ours, and
// registers functions that ours call. Counterparts: errors.h (exceptions), tests/test_mixing.py.
//
// The two never exchange C++ objects. They meet in tvm-ffi's registry, so that neither cares how
// the other was compiled, and nanobind keeps what it is good at: classes of your own.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/accessor.h>
#include <tvm/ffi/reflection/creator.h>

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "errors.h"

namespace nb = nanobind;
namespace ffi = tvm::ffi;

namespace mixing {
namespace {

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using NewRows = nb::ndarray<nb::numpy, float, nb::ndim<2>, nb::c_contig>;

/// A view of floats of ours as functions of my_llm_ffi take it.
struct View {
  View(const float* data, std::vector<int64_t> sizes) : shape(std::move(sizes)) {
    strides.assign(shape.size(), 1);
    for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
    tensor.data = const_cast<float*>(data);
    tensor.device = {kDLCPU, 0};
    tensor.ndim = static_cast<int32_t>(shape.size());
    tensor.dtype = {kDLFloat, 32, 1};
    tensor.shape = shape.data();
    tensor.strides = strides.data();
  }
  View(const View&) = delete;
  View& operator=(const View&) = delete;

  std::vector<int64_t> shape, strides{};
  DLTensor tensor{};
};

// ---- calling ------------------------------------------------------------------------------------

/// An op of ours on buffers of this extension: the mean square of each row becomes 1.
NewRows Normalized(const Rows& x, double eps) {
  static const auto rms_norm = ffi::Function::GetGlobalRequired("my_llm_ffi.rms_norm");
  const auto rows = static_cast<int64_t>(x.shape(0)), width = static_cast<int64_t>(x.shape(1));
  auto out = std::make_unique<float[]>(x.size());
  const std::vector<float> ones(width, 1.0F);
  {
    const nb::gil_scoped_release release;  // a call of ours needs no Python
    View from(x.data(), {rows, width}), weight(ones.data(), {width}), to(out.get(), {rows, width});
    rms_norm(&from.tensor, &weight.tensor, &to.tensor, eps);
  }
  const nb::capsule owner(out.get(),
                          [](void* data) noexcept { delete[] static_cast<float*>(data); });
  return NewRows(out.release(), {x.shape(0), x.shape(1)}, owner);
}

/// An object of ours: made, asked through a method, let go.
int64_t FirstOfPair(int64_t first, int64_t second) {
  constexpr const char* kPair = "my_llm_ffi.IntPair";
  static const ffi::Function get_first = ffi::reflection::GetMethod(kPair, "get_first");
  const ffi::reflection::ObjectCreator make(kPair);
  const ffi::Any pair = make(ffi::Map<ffi::String, ffi::Any>{{"first", first}, {"second", second}});
  return get_first(pair).cast<int64_t>();
}

// ---- being called -------------------------------------------------------------------------------

/// State of this extension, a class that Python sees through nanobind.
class Vetoes {
 public:
  void Add(int64_t token) {
    const std::lock_guard<std::mutex> lock(mutex_);
    tokens_.push_back(token);
  }

  /// Lowers the logits of the tokens, in place; any thread may call it, the GIL is not held.
  void Apply(ffi::TensorView logits) const {
    if (logits.ndim() != 1 || logits.dtype() != DLDataType{kDLFloat, 32, 1})
      throw ffi::Error("TypeError", "vetoes: logits must be one row of float32", "");
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const int64_t token : tokens_) {
      if (token < 0 || token >= logits.size(0)) {
        throw ffi::Error("IndexError",
                         "vetoes: no token " + std::to_string(token) + " among " +
                             std::to_string(logits.size(0)),
                         "");
      }
      static_cast<float*>(logits.data_ptr())[token] = -1e30F;
    }
  }

 private:
  mutable std::mutex mutex_;
  std::vector<int64_t> tokens_{};
};

/// Registers `name` for everybody in the process: our Python, our C++, a Rust thread.
void Register(const std::string& name, std::shared_ptr<Vetoes> vetoes) {
  ffi::Function::SetGlobal(
      name, ffi::Function::FromTyped(
                [vetoes = std::move(vetoes)](ffi::TensorView logits) { vetoes->Apply(logits); }));
}

/// Registers a Python callable, held by nanobind. It is called from any thread and without the GIL.
void RegisterCallable(const std::string& name, nb::callable callable) {
  // Leaked on purpose: the registry may outlive the interpreter, which the callable cannot.
  auto* held = new nb::callable(std::move(callable));
  ffi::Function::SetGlobal(name, ffi::Function::FromTyped([held](int64_t value) -> int64_t {
                             return WithPython([&] { return nb::cast<int64_t>((*held)(value)); });
                           }));
}

/// Calls any registered function with a number, through all borders at once.
int64_t CallRegistered(const std::string& name, int64_t value) {
  const auto function = ffi::Function::GetGlobalRequired(name);
  const nb::gil_scoped_release release;
  return function(value).cast<int64_t>();
}

}  // namespace
}  // namespace mixing

// NOLINTNEXTLINE: a macro of nanobind
NB_MODULE(_mixing, m) {
  nb::set_leak_warnings(false);  // the registry keeps functions as long as the process lives
  // The registry is filled by loading the library, which the package has done (mixing/__init__.py).
  mixing::TranslateErrors();
  m.def("normalized", mixing::Normalized, nb::arg("x"), nb::kw_only(), nb::arg("eps") = 1e-6,
        "Rows of float32 with a mean square of 1, by the op rms_norm.");
  m.def("first_of_pair", mixing::FirstOfPair, nb::arg("first"), nb::arg("second"),
        "The first number of an IntPair, through its method.");
  m.def("call_registered", mixing::CallRegistered, nb::arg("name"), nb::arg("value"),
        "Calls a registered function with a number.");
  m.def("register_callable", mixing::RegisterCallable, nb::arg("name"), nb::arg("callable"),
        "Registers a Python function of a number.");
  nb::class_<mixing::Vetoes>(m, "Vetoes", "Tokens that must not be drawn.")
      .def(nb::init<>())
      .def("add", &mixing::Vetoes::Add, nb::arg("token"), "Adds a token.");
  m.def("register_vetoes", mixing::Register, nb::arg("name"), nb::arg("vetoes"),
        "Registers a function that applies vetoes to a row of logits.");
}
