// my_llm_ffi.Context and my_llm_ffi.Batch across the border.
#include "ffi/objects.h"

namespace mlf {
namespace {

using OptionalInt = ffi::Optional<int64_t>;

ffi::Optional<ffi::Tuple<int64_t, int64_t>> Positions(const ContextRef& self, int64_t seq) {
  const auto range = self->context.Get()->Positions(seq);
  if (!range) return std::nullopt;
  return ffi::Tuple<int64_t, int64_t>(range->first, range->second);
}

void RegisterContext(MethodDef<ContextObj>& methods) {
  methods
      .def(
          "close", [](const ContextRef& self) { self->context.Close(); },
          "(): Frees the cache; every later call throws ValueError. Tensors that came from "
          "logits stay valid.")
      .def(
          "decode",
          [](const ContextRef& self, const BatchRef& batch) {
            const ExclusiveUse exclusive(batch->in_use, "Batch");
            self->context.Get()->Decode(batch->batch);
          },
          "(batch): Computes the tokens of a batch and stores them in their sequences; on any "
          "error the sequences are as before.")
      .def(
          "decode_tokens",
          [](const ContextRef& self, const ffi::Array<int64_t>& tokens) {
            const std::vector<int64_t> ids = ToInts(tokens);
            self->context.Get()->Decode(std::span<const int64_t>(ids));
          },
          "(tokens): Continues sequence 0 by tokens, and computes the logits of the last one.")
      .def(
          "logits", [](const ContextRef& self) { return self->context.Get()->logits(); },
          "(): float32 [n_outputs, n_vocab] of the last decode, in the order of its tokens.")
      .def(
          "embeddings", [](const ContextRef& self) { return self->context.Get()->embeddings(); },
          "(): float32 [tokens, n_embd] of the last decode: the last hidden row of each token.")
      .def(
          "n_ctx", [](const ContextRef& self) { return self->context.Get()->n_ctx(); },
          "(): Tokens that a sequence can hold.")
      .def(
          "n_seq_max", [](const ContextRef& self) { return self->context.Get()->n_seq_max(); },
          "(): Number of sequences.");
}

void RegisterSequences(MethodDef<ContextObj>& methods) {
  methods
      .def(
          "seq_remove",
          [](const ContextRef& self, int64_t seq, int64_t p0, const OptionalInt& p1) {
            self->context.Get()->Remove(seq, p0, ToStd(p1));
          },
          "(seq, p0 = 0, p1 = None): Removes the tokens of a sequence with p0 <= position < "
          "p1; no p1: to the end.")
      .def(
          "seq_copy",
          [](const ContextRef& self, int64_t src, int64_t dst, int64_t p0, const OptionalInt& p1) {
            self->context.Get()->Copy(src, dst, p0, ToStd(p1));
          },
          "(src, dst, p0 = 0, p1 = None): Lets dst hold the tokens of src in a range too, "
          "after its own; memory is shared.")
      .def(
          "seq_keep", [](const ContextRef& self, int64_t seq) { self->context.Get()->Keep(seq); },
          "(seq): Empties all other sequences.")
      .def(
          "seq_shift",
          [](const ContextRef& self, int64_t seq, int64_t p0, const OptionalInt& p1,
             int64_t delta) { self->context.Get()->Shift(seq, p0, ToStd(p1), delta); },
          "(seq, p0, p1, delta): Adds delta to the positions in a range; their keys are "
          "rotated to match.")
      .def("seq_positions", Positions,
           "(seq): First and last position of a sequence, None when it is empty.")
      .def(
          "seq_count",
          [](const ContextRef& self, int64_t seq) { return self->context.Get()->Count(seq); },
          "(seq): Number of tokens of a sequence.")
      .def(
          "clear", [](const ContextRef& self) { self->context.Get()->Clear(); },
          "(): Empties all sequences.")
      .def(
          "save_state",
          [](const ContextRef& self, const PathArgument& path, const OptionalInt& seq) {
            self->context.Get()->SaveState(ToPath(path), ToStd(seq));
          },
          "(path, seq = None): Writes positions, keys and values of one sequence, or of all, "
          "to a file.")
      .def(
          "load_state",
          [](const ContextRef& self, const PathArgument& path, const OptionalInt& seq) {
            self->context.Get()->LoadState(ToPath(path), ToStd(seq));
          },
          "(path, seq = None): Replaces sequences by those of a file; with seq, its only one "
          "becomes seq.");
}

void RegisterBatch() {
  MethodDef<BatchObj>()
      .def_static(
          "create", [] { return BatchRef(ffi::make_object<BatchObj>()); }, "(): An empty batch.")
      .def(
          "add",
          [](const BatchRef& self, int64_t token, int64_t position,
             const ffi::Array<int64_t>& sequences, bool logits) {
            const ExclusiveUse exclusive(self->in_use, "Batch");
            self->batch.tokens.push_back({token, position, ToInts(sequences), logits});
          },
          "(token, position, sequences, logits = False): Adds a token at a position of the "
          "sequences that store it; it sees the past of the first one. logits: whether its row "
          "is wanted.")
      .def(
          "clear",
          [](const BatchRef& self) {
            const ExclusiveUse exclusive(self->in_use, "Batch");
            self->batch.tokens.clear();
          },
          "(): Removes all tokens.")
      .def(
          "size",
          [](const BatchRef& self) {
            const ExclusiveUse exclusive(self->in_use, "Batch");
            return static_cast<int64_t>(self->batch.tokens.size());
          },
          "(): Number of tokens.");
}

TVM_FFI_STATIC_INIT_BLOCK() {
  MethodDef<ContextObj> methods;
  RegisterContext(methods);
  RegisterSequences(methods);
  RegisterBatch();
}

}  // namespace
}  // namespace mlf
