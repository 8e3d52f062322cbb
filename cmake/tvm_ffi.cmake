# The only part of TVM that is linked: tvm-ffi, found in the Python environment of the build.
find_package(Python COMPONENTS Interpreter Development.Module REQUIRED)
execute_process(
  COMMAND ${Python_EXECUTABLE} -m tvm_ffi.config --cmakedir
  OUTPUT_VARIABLE tvm_ffi_ROOT
  OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
find_package(tvm_ffi CONFIG REQUIRED)
add_library(mlc_server_tvm_ffi INTERFACE)
target_link_libraries(mlc_server_tvm_ffi INTERFACE tvm_ffi::header tvm_ffi::shared ${CMAKE_DL_LIBS})
