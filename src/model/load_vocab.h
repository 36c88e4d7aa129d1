// The vocabulary of a GGUF file. Counterpart: load_vocab.cc.
#pragma once
#include <memory>

#include "io/gguf.h"
#include "text/vocab.h"

namespace mlf {

/// Throws ValueError when the file has none or contradicts itself, NotImplementedError for an
/// unknown kind.
std::shared_ptr<const Vocab> LoadVocab(const Gguf& file);

}  // namespace mlf
