// Programs as files. Counterpart: plan_file.cc.
#pragma once
#include <string>

#include "plan/program.h"

namespace mlf {

// Little-endian. Header of 64 bytes: magic "MLF_PLAN", u32 version, u32 0, u64 bytes of the file,
// u64 offset, bytes and FNV-1a of the description, u64 offset and bytes of the constants. The
// description begins after the header:
//
//   text      u64 bytes, UTF-8          count   u64
//   tensors   count, each: u8 kind, text name, u8 dtype code, u8 bits, u64 rank, text per size;
//             a constant: u64 offset within the constants, u64 bytes; a view: u64 source, text
//             offset
//   calls     count, each: text function, count of arguments, each: u8 kind (none, tensor, int,
//             float, bool, text), u64, i64, f64, u8 or text
//   outputs   count, each: text name, u64 tensor
//
// Constants stand at multiples of 64 in the order of their tensors, and zeros between them.

/// Maps the file; constants point into it and are not read here, so damage to their values is not
/// found. ValueError with path, byte and what is wrong; NotImplementedError for another version;
/// OSError and its kinds where it cannot be read.
Program ReadPlanFile(const std::string& path, const Permission& permission);

void WritePlanFile(const std::string& path, const Program& program);

}  // namespace mlf
