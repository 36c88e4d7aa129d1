// Metadata of GGUF files as values of tvm-ffi. Counterpart: metadata.cc.
#pragma once
#include <tvm/ffi/tvm_ffi.h>

#include "io/gguf.h"

namespace mlf {

namespace ffi = tvm::ffi;

/// In the file's order, as bytes: files may hold anything, callers decode.
ffi::Array<ffi::Bytes> MetadataKeys(const Gguf& file);
/// Strings as bytes. KeyError when there is none.
ffi::Any MetadataValue(const Gguf& file, const ffi::Bytes& key);

}  // namespace mlf
