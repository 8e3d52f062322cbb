#include "engine/batch_builder.h"

#include "base/check.h"

namespace mlc_server {
namespace {

void AppendEntry(const BatchEntry& entry, int32_t page_size, ModelInput* input) {
  const Sequence& sequence = *entry.sequence;
  const int32_t end = entry.first_token + entry.num_rows();
  const int32_t num_pages = (end + page_size - 1) / page_size;
  const int32_t end_tokens = entry.first_token + entry.num_tokens;
  MLC_CHECK(entry.num_tokens > 0 && end_tokens <= sequence.length())
      << "sequence " << sequence.id << " has " << sequence.length() << " tokens, the batch wants ["
      << entry.first_token << ", " << end_tokens << ")";
  MLC_CHECK(entry.num_drafts == 0 ||
            (entry.num_drafts > 0 && end_tokens == sequence.length() &&
             static_cast<size_t>(entry.num_drafts) <= sequence.drafts.size()))
      << "sequence " << sequence.id << " has " << sequence.drafts.size()
      << " drafts, the batch wants " << entry.num_drafts;
  MLC_CHECK(entry.num_scored == 0 ||
            (entry.num_scored > 0 && entry.first_scored >= entry.first_token &&
             entry.first_scored + entry.num_scored <= end_tokens &&
             entry.first_scored + entry.num_scored < sequence.length()))
      << "sequence " << sequence.id << " is to be scored at [" << entry.first_scored << ", +"
      << entry.num_scored << "), the batch runs [" << entry.first_token << ", " << end_tokens
      << ")";
  MLC_CHECK(num_pages <= static_cast<int32_t>(sequence.pages.size()))
      << "sequence " << sequence.id << " holds " << sequence.pages.size() << " pages, " << end
      << " tokens need " << num_pages;
  for (int32_t position = entry.first_token; position < end; ++position) {
    input->token_ids.push_back(position < end_tokens ? sequence.tokens[position]
                                                     : sequence.drafts[position - end_tokens]);
    input->positions.push_back(position);
    input->write_slots.push_back(sequence.pages[position / page_size] * page_size +
                                 position % page_size);
  }
  input->page_table.insert(input->page_table.end(), sequence.pages.begin(),
                           sequence.pages.begin() + num_pages);
  input->query_offsets.push_back(static_cast<int32_t>(input->token_ids.size()));
  input->page_offsets.push_back(static_cast<int32_t>(input->page_table.size()));
  const int32_t first_row = static_cast<int32_t>(input->token_ids.size()) - entry.num_rows();
  for (int32_t index = 0; index < entry.num_scored; ++index) {
    input->logit_rows.push_back(first_row + entry.first_scored - entry.first_token + index);
  }
  if (entry.wants_logits) {
    const auto end_row = static_cast<int32_t>(input->token_ids.size());
    for (int32_t row = end_row - 1 - entry.num_drafts; row < end_row; ++row) {
      input->logit_rows.push_back(row);
    }
  }
}

}  // namespace

void BuildModelInput(const Batch& batch, int32_t page_size, ModelInput* input) {
  MLC_CHECK(!batch.entries.empty()) << "nothing to run";
  input->Clear();
  input->query_offsets.push_back(0);
  input->page_offsets.push_back(0);
  for (const PageCopy& copy : batch.copies) {
    input->page_copies.insert(input->page_copies.end(), {copy.from, copy.to});
  }
  for (const BatchEntry& entry : batch.entries) {
    AppendEntry(entry, page_size, input);
  }
  if (input->logit_rows.empty()) {
    input->logit_rows.push_back(static_cast<int32_t>(input->token_ids.size()) - 1);
  }
}

}  // namespace mlc_server
