// Loads libraries of declared ops. Counterparts: declared_op.h, include/my_llm_ffi/declare.h.
#include <tvm/ffi/extra/module.h>
#include <unistd.h>

#include <cerrno>

#include "base/declared_op.h"
#include "base/os_error.h"
#include "base/registry.h"

namespace mlf {
namespace {

ffi::Module LoadModule(const ffi::String& path) {
  if (access(path.c_str(), R_OK) != 0) ThrowErrno(errno, path.c_str(), "load the ops of");
  try {
    return ffi::Module::LoadFromFile(path);
  } catch (const ffi::Error& error) {
    TVM_FFI_THROW(OSError) << "load_ops: " << path << " does not load: " << error.message();
  }
}

/// Declares the ops of a library made with my_llm_ffi/declare.h, and returns their names: none when
/// it was loaded before.
ffi::Array<ffi::String> LoadOps(const ffi::String& path) {
  const ffi::Module module = LoadModule(path);
  const ffi::Optional<ffi::Function> declare = module->GetFunction("my_llm_ffi_ops");
  if (!declare.has_value())
    TVM_FFI_THROW(ValueError) << "load_ops: " << path << " has no MY_LLM_FFI_OPS block";
  // Leaked on purpose: its kernels are called as long as the process lives.
  static_cast<void>(new ffi::Module(module));
  const DeclaredNames declared;
  const ffi::Function declare_all = ThroughC(*declare);
  declare_all();
  return {declared.names().begin(), declared.names().end()};
}

TVM_FFI_STATIC_INIT_BLOCK() {
  FunctionDef().def("my_llm_ffi.load_ops", LoadOps,
                    {{"doc",
                      "(path): Loads a library of ops, made with my_llm_ffi/declare.h; "
                      "returns the names of those it declared."}});
}

}  // namespace
}  // namespace mlf
