// Sets of split GGUF files: names and counts of the parts. Counterpart: gguf_split.cc.
#pragma once
#include <string>
#include <vector>

#include "io/gguf_parse.h"
#include "io/mmap.h"

namespace mlf {

/// An open file and what it holds; the contents point into the bytes.
struct GgufFile {
  MappedFile bytes;
  GgufPart part;
};

/// The file at `path`, or all parts of its set in order where it says that it is one. Throws what
/// Gguf::Open does, also for a part that is missing or contradicts another.
std::vector<GgufFile> OpenGgufFiles(const std::string& path);

}  // namespace mlf
