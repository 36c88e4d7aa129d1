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

void RegisterContext() {
  MethodDef<ContextObj>()
      .def("close", [](const ContextRef& self) { self->context.Close(); })
      .def("decode",
           [](const ContextRef& self, const BatchRef& batch) {
             const ExclusiveUse exclusive(batch->in_use, "Batch");
             self->context.Get()->Decode(batch->batch);
           })
      .def("decode_tokens",
           [](const ContextRef& self, const ffi::Array<int64_t>& tokens) {
             const std::vector<int64_t> ids = ToInts(tokens);
             self->context.Get()->Decode(std::span<const int64_t>(ids));
           })
      .def("logits", [](const ContextRef& self) { return self->context.Get()->logits(); })
      .def("embeddings", [](const ContextRef& self) { return self->context.Get()->embeddings(); })
      .def("n_ctx", [](const ContextRef& self) { return self->context.Get()->n_ctx(); })
      .def("n_seq_max", [](const ContextRef& self) { return self->context.Get()->n_seq_max(); })
      .def("seq_remove",
           [](const ContextRef& self, int64_t seq, int64_t p0, const OptionalInt& p1) {
             self->context.Get()->Remove(seq, p0, ToStd(p1));
           })
      .def("seq_copy",
           [](const ContextRef& self, int64_t src, int64_t dst, int64_t p0, const OptionalInt& p1) {
             self->context.Get()->Copy(src, dst, p0, ToStd(p1));
           })
      .def("seq_keep", [](const ContextRef& self, int64_t seq) { self->context.Get()->Keep(seq); })
      .def("seq_shift",
           [](const ContextRef& self, int64_t seq, int64_t p0, const OptionalInt& p1,
              int64_t delta) { self->context.Get()->Shift(seq, p0, ToStd(p1), delta); })
      .def("seq_positions", Positions,
           "(first, last) position of a sequence, None when it is empty")
      .def("seq_count",
           [](const ContextRef& self, int64_t seq) { return self->context.Get()->Count(seq); })
      .def("clear", [](const ContextRef& self) { self->context.Get()->Clear(); })
      .def("save_state",
           [](const ContextRef& self, const PathArgument& path, const OptionalInt& seq) {
             self->context.Get()->SaveState(ToPath(path), ToStd(seq));
           })
      .def("load_state",
           [](const ContextRef& self, const PathArgument& path, const OptionalInt& seq) {
             self->context.Get()->LoadState(ToPath(path), ToStd(seq));
           });
}

void RegisterBatch() {
  MethodDef<BatchObj>()
      .def_static("create", [] { return BatchRef(ffi::make_object<BatchObj>()); })
      .def("add",
           [](const BatchRef& self, int64_t token, int64_t position,
              const ffi::Array<int64_t>& sequences, bool logits) {
             const ExclusiveUse exclusive(self->in_use, "Batch");
             self->batch.tokens.push_back({token, position, ToInts(sequences), logits});
           })
      .def("clear",
           [](const BatchRef& self) {
             const ExclusiveUse exclusive(self->in_use, "Batch");
             self->batch.tokens.clear();
           })
      .def("size", [](const BatchRef& self) {
        const ExclusiveUse exclusive(self->in_use, "Batch");
        return static_cast<int64_t>(self->batch.tokens.size());
      });
}

TVM_FFI_STATIC_INIT_BLOCK() {
  RegisterContext();
  RegisterBatch();
}

}  // namespace
}  // namespace mlf
