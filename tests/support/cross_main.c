/* Calls one compiled kernel on another architecture: arguments in a file, tensors written back.
 *
 * File: int32 count; per argument int32 kind. Kind 0: int64 value. Kind 1: int32 code, bits, ndim,
 * int64 shape[ndim], int64 nbytes, the bytes. KERNEL is the symbol to call.
 */
#include <dlpack/dlpack.h>
#include <stdio.h>
#include <stdlib.h>
#include <tvm/ffi/c_api.h>

#define MAX_ARGUMENTS 16
#define MAX_DIMS 5
#define TASKS 3

typedef int (*ParallelLambda)(int task, void* env, void* data);
typedef struct {
  void* sync;
  int32_t tasks;
} ParallelEnv;

static int Launch(ParallelLambda lambda, void* data, int tasks) {
  ParallelEnv env = {NULL, TASKS};
  (void)tasks;
  for (int task = 0; task < TASKS; ++task) {
    if (lambda(task, &env, data) != 0) return -1;
  }
  return 0;
}

int (*__TVMBackendParallelLaunch)(ParallelLambda, void*, int) = Launch;

static void* Allocate(int device_type, int device_id, uint64_t bytes, int code, int bits) {
  (void)device_type, (void)device_id, (void)code, (void)bits;
  return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static int Free(int device_type, int device_id, void* memory) {
  (void)device_type, (void)device_id;
  free(memory);
  return 0;
}

void* (*__TVMBackendAllocWorkspace)(int, int, uint64_t, int, int) = Allocate;
int (*__TVMBackendFreeWorkspace)(int, int, void*) = Free;

void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  fprintf(stderr, "%s: ", kind);
  for (int32_t i = 0; i < count; ++i) {
    fputs(parts[i] ? parts[i] : "", stderr);
  }
  fputc('\n', stderr);
}

int KERNEL(void* self, const TVMFFIAny* args, int32_t count, TVMFFIAny* result);

static void Read(void* target, size_t size, FILE* file) {
  if (fread(target, 1, size, file) != size) exit(3);
}

int main(int argc, char** argv) {
  TVMFFIAny args[MAX_ARGUMENTS] = {0};
  DLTensor tensors[MAX_ARGUMENTS] = {0};
  int64_t shapes[MAX_ARGUMENTS][MAX_DIMS];
  int64_t sizes[MAX_ARGUMENTS] = {0};
  int32_t count = 0;
  if (argc != 3) return 2;
  FILE* file = fopen(argv[1], "rb");
  Read(&count, 4, file);
  if (count > MAX_ARGUMENTS) return 2;
  for (int32_t i = 0; i < count; ++i) {
    int32_t kind = 0;
    Read(&kind, 4, file);
    if (kind == 0) {
      args[i].type_index = kTVMFFIInt;
      Read(&args[i].v_int64, 8, file);
      continue;
    }
    int32_t header[3];
    Read(header, sizeof(header), file);
    if (header[2] > MAX_DIMS) return 2;
    Read(shapes[i], 8 * (size_t)header[2], file);
    Read(&sizes[i], 8, file);
    tensors[i].data = aligned_alloc(64, ((size_t)sizes[i] + 127) / 64 * 64);
    Read(tensors[i].data, (size_t)sizes[i], file);
    tensors[i].device.device_type = kDLCPU;
    tensors[i].ndim = header[2];
    tensors[i].dtype.code = (uint8_t)header[0];
    tensors[i].dtype.bits = (uint8_t)header[1];
    tensors[i].dtype.lanes = 1;
    tensors[i].shape = shapes[i];
    args[i].type_index = kTVMFFIDLTensorPtr;
    args[i].v_ptr = &tensors[i];
  }
  fclose(file);
  TVMFFIAny result = {0};
  if (KERNEL(NULL, args, count, &result) != 0) return 1;
  file = fopen(argv[2], "wb");
  for (int32_t i = 0; i < count; ++i) {
    if (sizes[i] > 0) fwrite(tensors[i].data, 1, (size_t)sizes[i], file);
  }
  return fclose(file);
}
