// The inbox is bounded, keeps the order of commands and knows which ids are open.

#include "engine/inbox.h"

#include <chrono>
#include <thread>

#include "harness.h"
#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

std::shared_ptr<const Request> MakeRequest(RequestId id) {
  return std::make_shared<const Request>(GreedyRequest(id, {5}, 5));
}

TEST(InboxCountsTheEngineQueueToo) {
  Inbox inbox(3);
  for (RequestId id = 1; id <= 3; ++id) {
    EXPECT_FALSE(inbox.Submit(MakeRequest(id), 0).has_value());
  }
  EXPECT_EQ(inbox.Submit(MakeRequest(4), 0)->code, ErrorCode::kQueueFull);
  EXPECT_EQ(inbox.Take().size(), size_t{3});
  EXPECT_EQ(inbox.num_waiting(), 3);
  EXPECT_EQ(inbox.Submit(MakeRequest(4), 0)->code, ErrorCode::kQueueFull);  // taken, not started
  inbox.NoteStarted(1);
  EXPECT_FALSE(inbox.Submit(MakeRequest(4), 0).has_value());
  EXPECT_EQ(inbox.Submit(MakeRequest(5), 0)->code, ErrorCode::kQueueFull);
}

TEST(InboxKeepsTheOrderOfCommands) {
  Inbox inbox(10);
  EXPECT_FALSE(inbox.Submit(MakeRequest(1), 0).has_value());
  inbox.Cancel(1);
  EXPECT_FALSE(inbox.Submit(MakeRequest(2), 0).has_value());
  const std::vector<Command> commands = inbox.Take();
  EXPECT_EQ(commands.size(), size_t{3});
  EXPECT_TRUE(commands[0].request != nullptr && commands[0].request_id == 1);
  EXPECT_TRUE(commands[1].request == nullptr && commands[1].request_id == 1);
  EXPECT_TRUE(commands[2].request != nullptr && commands[2].request_id == 2);
  EXPECT_TRUE(inbox.Take().empty());
}

TEST(InboxKeepsOneCancellationPerOpenRequest) {
  Inbox inbox(10);
  EXPECT_FALSE(inbox.Submit(MakeRequest(1), 0).has_value());
  inbox.Take();
  for (int32_t repeat = 0; repeat < 1000; ++repeat) {
    inbox.Cancel(1);
    inbox.Cancel(2);
  }
  EXPECT_EQ(inbox.Take().size(), size_t{1});
  inbox.NoteFinished(1);
  inbox.Cancel(1);
  EXPECT_TRUE(inbox.Take().empty());
}

TEST(InboxRefusesAnOpenIdAndTakesAFinishedOne) {
  Inbox inbox(10);
  EXPECT_FALSE(inbox.Submit(MakeRequest(1), 0).has_value());
  const Status refused = inbox.Submit(MakeRequest(1), 0);
  EXPECT_EQ(refused->code, ErrorCode::kInvalidValue);
  EXPECT_EQ(refused->param, "request_id");
  inbox.Take();
  inbox.NoteFinished(1);
  EXPECT_FALSE(inbox.Submit(MakeRequest(1), 0).has_value());
}

TEST(ClosedInboxReturnsWhatWaitsAndRefusesMore) {
  Inbox inbox(10);
  EXPECT_FALSE(inbox.Submit(MakeRequest(1), 0).has_value());
  EXPECT_EQ(inbox.Close("gone").size(), size_t{1});
  EXPECT_TRUE(inbox.Close("other").empty());
  const Status refused = inbox.Submit(MakeRequest(2), 0);
  EXPECT_EQ(refused->code, ErrorCode::kUnavailable);
  EXPECT_EQ(refused->message, "gone");
  EXPECT_EQ(inbox.num_waiting(), 0);
}

TEST(InboxWaitEndsWithTheFirstCommandOrWake) {
  Inbox inbox(10);
  const auto long_time = std::chrono::seconds(60);
  const auto start = std::chrono::steady_clock::now();
  std::thread submitter([&] { (void)inbox.Submit(MakeRequest(1), 0); });
  inbox.Wait(long_time);
  submitter.join();
  inbox.Take();
  inbox.Wake();  // before the wait: not lost
  inbox.Wait(long_time);
  inbox.Wait(std::chrono::milliseconds(1));  // the wake-up was used up: this one times out
  EXPECT_TRUE(std::chrono::steady_clock::now() - start < long_time / 2);
}

TEST(QueueFullIsRefusedAtOnceAndRoomComesBack) {
  EngineConfig config = SmallConfig();
  config.max_queue_size = 5;
  config.max_batch_size = 2;
  Harness harness(config);
  for (RequestId id = 1; id <= 5; ++id) {
    harness.Submit(GreedyRequest(id, {5}, 3));
  }
  const Status refused = harness.engine().Submit(GreedyRequest(6, {5}, 3));
  EXPECT_EQ(refused->code, ErrorCode::kQueueFull);
  EXPECT_EQ(refused->message, "the queue is full: 5 requests are waiting");
  harness.Step();  // two run, three wait
  harness.Submit(GreedyRequest(6, {5}, 3));
  harness.Submit(GreedyRequest(7, {5}, 3));
  EXPECT_EQ(harness.engine().Submit(GreedyRequest(8, {5}, 3))->code, ErrorCode::kQueueFull);
  harness.RunToEnd();
  harness.ExpectIdle();
  EXPECT_EQ(harness.outcomes().size(), size_t{7});
}

TEST(UnreadOutputStopsNewWork) {
  EngineConfig config = SmallConfig();
  config.max_queue_size = 2;
  config.max_batch_size = 2;
  config.max_choices = 1;
  Harness harness(config);
  RequestId id = 1;
  Status refused;
  while (!refused && id < 100) {
    refused = harness.engine().Submit(GreedyRequest(id++, {5}, 1));
    harness.engine().Step();
  }
  EXPECT_EQ(refused->code, ErrorCode::kQueueFull);
  EXPECT_LE(id, RequestId{8});
  harness.RunToEnd();  // reads
  harness.Submit(GreedyRequest(id, {5}, 1));
}

TEST(InvalidRequestsNeverReachTheInbox) {
  Harness harness;
  EXPECT_EQ(harness.engine().Submit(GreedyRequest(1, {}, 1))->param, "prompt");
  EXPECT_EQ(harness.engine().Submit(GreedyRequest(1, {kVocabSize}, 1))->param, "prompt");
  EXPECT_EQ(harness.engine().Submit(GreedyRequest(1, std::vector<int32_t>(128, 5), 1))->code,
            ErrorCode::kContextOverflow);
  Request request = GreedyRequest(1, {5}, 1);
  request.num_choices = 17;
  EXPECT_EQ(harness.engine().Submit(request)->param, "n");
  request = GreedyRequest(1, {5}, 1);
  request.sampling.top_p = 2.0;
  EXPECT_EQ(harness.engine().Submit(request)->param, "top_p");
  EXPECT_EQ(harness.engine().Stats().num_waiting, 0);
}

}  // namespace
}  // namespace mlc_server::testing
