/* Stub of libnvinfer, libnvinfer_plugin and libnvonnxparser, so that NVIDIA's Python bindings can be imported without them.
 * The bindings link against these nine functions only; each returns null, so nothing can be built or run.
 * trt_api.py compiles it once per library name, for test_tensorrt_api_only.py. */

#include <stddef.h>
#include <stdint.h>

void* createInferBuilder_INTERNAL(void* logger, int32_t version) { return NULL; }
void* createInferRefitter_INTERNAL(void* engine, void* logger, int32_t version) { return NULL; }
void* createInferRuntime_INTERNAL(void* logger, int32_t version) { return NULL; }
void* createNvOnnxParser_INTERNAL(void* network, void* logger, int32_t version) { return NULL; }
void* createNvOnnxParserRefitter_INTERNAL(void* refitter, void* logger, int32_t version) { return NULL; }
void* getBuilderPluginRegistry(int32_t capability) { return NULL; }
void* getPluginRegistry(void) { return NULL; }
int32_t getNvOnnxParserVersion(void) { return 0; }
_Bool initLibNvInferPlugins(void* logger, const char* name_space) { return 0; }
