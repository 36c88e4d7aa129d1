/* What can go wrong in a C program, and callbacks of C: checks LIBRARY MODEL prints a line for each
 * error, which test_c.py compares. Exits 1 where a value is not what it should be. */
#include <my_llm_ffi/c.h>

static int failures = 0;

static void check(bool holds, const char* what) {
  if (holds) return;
  printf("FAILED: %s\n", what);
  ++failures;
}

/* Prints the error of a call that must have failed. */
static void fails(const char* name, int status) {
  printf("%s|", name);
  if (status == 0) {
    puts("nothing is wrong");
  } else {
    mlf_print_error(stdout);
  }
}

static void check_before_opening(void) {
  TVMFFIAny out = mlf_int(7);
  fails("not open", mlf_version(&out));
  check(out.type_index == kTVMFFINone, "nothing is returned by a call that failed");
  fails("method not open", mlf_batch_create(&out));
  fails("callback not open", mlf_callback(NULL, NULL, NULL, &out));
  check(mlf_open("/no/such/library.so") != NULL, "a file that is not there");
  check(mlf_open("libm.so.6") != NULL, "another library");
  fails("another library", mlf_version(&out));
  mlf_release(&out);
}

static int answer(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  if (count != 1 || args[0].type_index != kTVMFFIInt) return mlf_fail("TypeError", "no number");
  *result = mlf_int(args[0].v_int64 + *(const int64_t*)self);
  return 0;
}

static void count_down(void* self) { --*(int64_t*)self; }

static void check_callbacks(void) {
  int64_t one = 1;
  TVMFFIAny callback, out;
  check(mlf_callback(&one, answer, count_down, &callback) == 0, "callback");
  check(mlf_call_with(callback, mlf_int(41), &out) == 0 && out.v_int64 == 42, "call_with");
  fails("callback", mlf_call_with(callback, mlf_none(), &out));
  fails("threads", mlf_call_from_threads(callback, 2, 3, &out));
  mlf_release(&callback);
  check(one == 0, "the deleter was called");
}

static int forbid(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result) {
  (void)args, (void)count, (void)result;
  ++*(int64_t*)self;
  return mlf_fail("ValueError", "no mask today");
}

/* A request whose post-processor fails; its only response is printed. */
static void check_executor(TVMFFIAny model) {
  static int64_t calls = 0;
  TVMFFIAny callback, config, request, tokens, executor, responses, response, out, error;
  TVMFFIAny ids[] = {mlf_int(1), mlf_int(2), mlf_int(3)};
  check(mlf_list(ids, 3, &tokens) == 0, "list");
  TVMFFIAny fields[] = {mlf_text("tokens"), tokens, mlf_text("use_logits_post_processor"),
                        mlf_bool(true)};
  check(mlf_map(fields, 2, &request) == 0 && mlf_map(NULL, 0, &config) == 0, "map");
  check(mlf_callback(&calls, forbid, NULL, &callback) == 0, "callback of an executor");
  if (mlf_executor_create(model, config, callback, mlf_none(), &executor) != 0) {
    mlf_print_error(stdout);
    return check(false, "executor");
  }
  check(mlf_executor_enqueue(executor, request, 0, &out) == 0, "enqueue");
  check(mlf_executor_await_responses(executor, NULL, NULL, 0, &responses) == 0, "await_responses");
  TVMFFIObjectHandle item = NULL;
  TVMFFIAny where[] = {responses, mlf_int(0)};
  check(mlf_call(&item, "ffi.ArrayGetItem", where, 2, &response) == 0, "a response");
  check(mlf_response_error(response, &error) == 0 && calls > 0, "its error");
  check(mlf_response_finish_reason(response, &out) == 0 && out.v_int64 == MLF_FINISH_REASON_ERROR,
        "its finish_reason");
  fails("field", mlf_response_text(executor, &out));
  fails("field of none", mlf_response_text(mlf_none(), &out));
  const TVMFFIByteArray text = mlf_characters(&error);
  printf("post-processor|%.*s\n", (int)text.size, text.data);
  check(mlf_executor_shutdown(executor, false) == 0, "shutdown");
  fails("shut down", mlf_executor_enqueue(executor, request, 0, NULL));
  TVMFFIAny held[] = {callback, config, request, tokens, executor, responses, response, error};
  for (size_t i = 0; i < sizeof held / sizeof held[0]; ++i) mlf_release(&held[i]);
}

static void check_objects(const char* path) {
  TVMFFIAny model, context, none = mlf_none(), empty;
  fails("no file", mlf_model_load("/no/such/model.gguf", 0, true, true, false, none, &model));
  fails("no path", mlf_model_load(NULL, 0, true, true, false, none, &model));
  check(mlf_model_load(path, 0, true, true, false, none, &model) == 0, "load");
  check_executor(model);
  check(mlf_list(NULL, 0, &empty) == 0, "an empty list");
  check(mlf_model_context(model, 64, 1, 32, "f16", 0, 0, false, empty, empty, &context) == 0,
        "context");
  check(mlf_context_close(context) == 0, "close");
  fails("closed", mlf_context_n_ctx(context, NULL));
  mlf_release(&context);
  fails("released", mlf_context_n_ctx(context, NULL));
  check(mlf_model_close(model) == 0, "close model");
  fails("closed model",
        mlf_model_context(model, 64, 1, 32, "f16", 0, 0, false, empty, empty, &context));
  mlf_release(&context);
  mlf_release(&empty);
  mlf_release(&model);
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  check_before_opening();
  const char* problem = mlf_open(argv[1]);
  if (problem != NULL) return puts(problem), 2;
  check_callbacks();
  check_objects(argv[2]);
  return failures == 0 ? 0 : 1;
}
