// What TensorRT's Python bindings ask of libnvinfer, libnvinfer_plugin and libnvonnxparser: the
// registry is that of the genuine dispatch runtime (MLF_DISPATCH), nothing else is there.
// Counterpart: install.py, which compiles it three times, once per library's name.
#include <dlfcn.h>
#include <stdio.h>

static void* Dispatch(const char* name) {
  static void* library;
  if (library == NULL) library = dlopen(MLF_DISPATCH, RTLD_NOW | RTLD_GLOBAL);
  void* found = library == NULL ? NULL : dlsym(library, name);
  if (found == NULL) fprintf(stderr, "%s: %s\n", name, dlerror());
  return found;
}

void* getPluginRegistry(void) {
  void* (*get)(void) = (void* (*)(void))Dispatch("getPluginRegistry");
  return get == NULL ? NULL : get();
}

void* getBuilderPluginRegistry(int capability) {
  (void)capability;
  return getPluginRegistry();
}

void* getLogger(void) {
  void* (*get)(void) = (void* (*)(void))Dispatch("getLogger");
  return get == NULL ? NULL : get();
}

// Needs a driver, and so it is not there: the bindings say that the factory returned nothing.
void* createInferRuntime_INTERNAL(void* logger, int version) {
  (void)logger, (void)version;
  return NULL;
}

void* createInferBuilder_INTERNAL(void* logger, int version) {
  (void)logger, (void)version;
  return NULL;
}

void* createInferRefitter_INTERNAL(void* engine, void* logger, int version) {
  (void)engine, (void)logger, (void)version;
  return NULL;
}

int initLibNvInferPlugins(void* logger, const char* name_space) {
  (void)logger, (void)name_space;
  return 1;
}

void* createNvOnnxParser_INTERNAL(void* network, void* logger, int version) {
  (void)network, (void)logger, (void)version;
  return NULL;
}

void* createNvOnnxParserRefitter_INTERNAL(void* refitter, void* logger, int version) {
  (void)refitter, (void)logger, (void)version;
  return NULL;
}

int getNvOnnxParserVersion(void) { return 0; }
