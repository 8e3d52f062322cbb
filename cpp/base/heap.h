#pragma once

#include <cstddef>
#include <cstdlib>

#if defined(__GLIBC__)  // other systems have no such header
#include <malloc.h>
#endif

namespace mlc_server {

// Bytes that the whole process has from malloc at the moment; 0 where the C library does not tell.
inline size_t HeapBytes() {
#if defined(__GLIBC__)
#if __GLIBC_PREREQ(2, 33)
  const struct mallinfo2 info = mallinfo2();
#else
  const struct mallinfo info = mallinfo();
#endif
  return static_cast<size_t>(info.uordblks) + static_cast<size_t>(info.hblkhd);
#else
  return 0;
#endif
}

// Gives back to the system what malloc holds of freed memory.
inline void TrimHeap() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace mlc_server
