// The registry of architectures. Counterpart: architecture.h.
#include "model/architecture.h"

#include <tvm/ffi/tvm_ffi.h>

#include <map>

#include "base/quote.h"

namespace mlf {
namespace {

std::map<std::string, BuildNetwork>& Registry() {
  static std::map<std::string, BuildNetwork> registry;
  return registry;
}

}  // namespace

bool RegisterArchitecture(const std::string& name, BuildNetwork build) {
  return Registry().emplace(name, build).second;
}

BuildNetwork FindArchitecture(const std::string& name) {
  const auto found = Registry().find(name);
  if (found != Registry().end()) return found->second;
  std::string known;
  for (const auto& entry : Registry()) known += (known.empty() ? "" : ", ") + entry.first;
  TVM_FFI_THROW(NotImplementedError)
      << "architecture " << Quoted(name) << " is not supported, expected one of " << known;
}

}  // namespace mlf
