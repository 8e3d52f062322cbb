// One wake-up per idle reader, nothing lost, nothing reported twice, bounded while nobody reads.

#include "engine/outbox.h"

#include <poll.h>

#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

OutputItem Item(RequestId id, int32_t choice, const std::string& text, int32_t token_id,
                FinishReason reason = FinishReason::kNone) {
  OutputItem item;
  item.request_id = id;
  item.choice = choice;
  item.text = text;
  item.token_ids = {token_id};
  item.logprobs = {{{token_id, -1.0f}, {{token_id, -1.0f}}}};
  item.finish_reason = reason;
  item.completion_tokens = token_id;
  return item;
}

void Publish(Outbox* outbox, std::vector<OutputItem> items) {
  outbox->Publish(&items);
  EXPECT_TRUE(items.empty());
}

bool IsReadable(const Outbox& outbox) {
  pollfd poll_fd = {outbox.wake_fd(), POLLIN, 0};
  return poll(&poll_fd, 1, 0) == 1;
}

TEST(OutboxWakesAnIdleReaderOnce) {
  Outbox outbox;
  EXPECT_FALSE(IsReadable(outbox));
  Publish(&outbox, {});
  EXPECT_FALSE(IsReadable(outbox));
  for (int32_t step = 1; step <= 100; ++step) {
    Publish(&outbox, {Item(1, 0, "a", step)});
    EXPECT_TRUE(IsReadable(outbox));
  }
  EXPECT_EQ(outbox.num_wakeups(), 1);
  outbox.Drain();
  EXPECT_FALSE(IsReadable(outbox));
  Publish(&outbox, {Item(1, 0, "a", 101)});
  EXPECT_TRUE(IsReadable(outbox));
  EXPECT_EQ(outbox.num_wakeups(), 2);
}

TEST(OutboxKeepsOrderWhenTheReaderKeepsUp) {
  Outbox outbox;
  Publish(&outbox, {Item(2, 0, "a", 1), Item(1, 0, "b", 1)});
  const std::vector<OutputItem> items = outbox.Drain();
  EXPECT_EQ(items.size(), size_t{2});
  EXPECT_EQ(items[0].request_id, RequestId{2});
  EXPECT_EQ(items[1].text, "b");
  EXPECT_TRUE(outbox.Drain().empty());
}

TEST(OutboxMergesPerChoiceWhileNobodyReads) {
  Outbox outbox;
  std::string expected;
  for (int32_t step = 1; step <= 1000; ++step) {
    const std::string text(1, static_cast<char>('a' + step % 26));
    expected += text;
    Publish(&outbox, {Item(1, 0, text, step), Item(1, 1, "x", step), Item(2, 0, "", step)});
    EXPECT_EQ(outbox.num_unread(), size_t{3});
  }
  Publish(&outbox, {Item(1, 0, "!", 1001, FinishReason::kLength)});
  const std::vector<OutputItem> items = outbox.Drain();
  EXPECT_EQ(items.size(), size_t{3});
  EXPECT_EQ(items[0].text, expected + "!");
  EXPECT_EQ(items[0].token_ids.size(), size_t{1001});
  EXPECT_EQ(items[0].logprobs.size(), size_t{1001});
  for (int32_t position = 0; position < 1001; ++position) {
    EXPECT_EQ(items[0].token_ids[position], position + 1);
    EXPECT_EQ(items[0].logprobs[position].token.token_id, position + 1);
  }
  EXPECT_EQ(items[0].finish_reason, FinishReason::kLength);
  EXPECT_EQ(items[0].completion_tokens, 1001);
  EXPECT_EQ(items[1].text, std::string(1000, 'x'));
  EXPECT_EQ(items[1].finish_reason, FinishReason::kNone);
  EXPECT_EQ(items[2].text, "");
}

TEST(OutboxKeepsLivesOfOneIdApart) {
  Outbox outbox;
  Publish(&outbox, {Item(1, 0, "old", 1, FinishReason::kStop)});
  Publish(&outbox, {Item(1, 0, "new", 1)});
  Publish(&outbox, {Item(1, 0, "er", 2)});
  const std::vector<OutputItem> items = outbox.Drain();
  EXPECT_EQ(items.size(), size_t{2});
  EXPECT_EQ(items[0].text, "old");
  EXPECT_EQ(items[1].text, "newer");
  EXPECT_EQ(items[1].finish_reason, FinishReason::kNone);
}

TEST(OutboxMergesATokenAndTheEndOfOneStep) {
  Outbox outbox;
  Publish(&outbox, {Item(1, 0, "a", 1)});
  Publish(&outbox, {Item(1, 0, "b", 2), Item(1, 0, "", 3, FinishReason::kError)});
  const std::vector<OutputItem> items = outbox.Drain();
  EXPECT_EQ(items.size(), size_t{1});
  EXPECT_EQ(items[0].text, "ab");
  EXPECT_EQ(items[0].finish_reason, FinishReason::kError);
}

TEST(OutboxDrainWithoutNewsDoesNotLoseTheNextWakeUp) {
  Outbox outbox;
  outbox.Drain();
  outbox.Drain();
  Publish(&outbox, {Item(1, 0, "a", 1)});
  EXPECT_TRUE(IsReadable(outbox));
}

}  // namespace
}  // namespace mlc_server::testing
