#include "kv/page_pool.h"

#include <utility>

#include "base/check.h"

namespace mlc_server {

PagePool::PagePool(int32_t num_pages) {
  MLC_CHECK(num_pages >= 1) << "a pool of " << num_pages << " pages";
  references_.assign(num_pages, 0);
  free_.reserve(num_pages);
  // Low pages are handed out first, so that a lightly used pool touches little memory.
  for (PageId page = num_pages - 1; page >= 0; --page) {
    free_.push_back(page);
  }
}

std::optional<std::vector<PageId>> PagePool::Allocate(int32_t count) {
  std::vector<PageId> pages;
  if (!AllocateOnto(&pages, count)) {
    return std::nullopt;
  }
  return pages;
}

bool PagePool::AllocateOnto(std::vector<PageId>* pages, int32_t count) {
  MLC_CHECK(count >= 0) << "asked for " << count << " pages";
  if (count > num_free() || (count > 0 && fault_ && fault_(count))) {
    return false;
  }
  for (int32_t i = 0; i < count; ++i) {
    const PageId page = free_.back();
    free_.pop_back();
    references_[page] = 1;
    pages->push_back(page);
  }
  return true;
}

void PagePool::AddReference(PageId page) {
  CheckAllocated(page);
  ++references_[page];
}

void PagePool::Release(PageId page) {
  CheckAllocated(page);
  if (--references_[page] == 0) {
    free_.push_back(page);
  }
}

int32_t PagePool::reference_count(PageId page) const {
  MLC_CHECK(page >= 0 && page < num_pages()) << "page " << page << " of " << num_pages();
  return references_[page];
}

void PagePool::SetAllocationFault(std::function<bool(int32_t)> fault) { fault_ = std::move(fault); }

void PagePool::CheckAllocated(PageId page) const {
  MLC_CHECK(reference_count(page) > 0) << "page " << page << " is free";
}

void PagePool::CheckIntegrity() const {
  std::vector<bool> is_free(references_.size(), false);
  for (PageId page : free_) {
    MLC_CHECK(reference_count(page) == 0)
        << "page " << page << " is in the free list with " << references_[page] << " references";
    MLC_CHECK(!is_free[page]) << "page " << page << " is in the free list twice";
    is_free[page] = true;
  }
  for (PageId page = 0; page < num_pages(); ++page) {
    MLC_CHECK(references_[page] >= 0) << "page " << page << " has " << references_[page];
    MLC_CHECK(is_free[page] == (references_[page] == 0))
        << "page " << page << " is neither free nor referenced";
  }
}

}  // namespace mlc_server
