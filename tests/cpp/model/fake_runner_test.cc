// The fake runner is deterministic, and no mistake in a batch's tables goes unseen.

#include "model/fake_runner.h"

#include <cmath>

#include "model/model_input.h"
#include "support/cpp_test.h"

namespace mlc_server::testing {
namespace {

constexpr int32_t kPageSize = 4;

FakeRunnerOptions Options() {
  FakeRunnerOptions options;
  options.vocab_size = 50;
  options.page_size = kPageSize;
  options.max_rows = 32;
  options.max_logit_rows = 8;
  return options;
}

// Tokens [first, tokens.size()) of one sequence that lives in `pages`.
ModelInput Input(const std::vector<int32_t>& tokens, int32_t first,
                 const std::vector<int32_t>& pages) {
  ModelInput input;
  const auto length = static_cast<int32_t>(tokens.size());
  for (int32_t position = first; position < length; ++position) {
    input.token_ids.push_back(tokens[position]);
    input.positions.push_back(position);
    input.write_slots.push_back(pages[position / kPageSize] * kPageSize + position % kPageSize);
  }
  input.query_offsets = {0, length - first};
  input.page_table.assign(pages.begin(), pages.begin() + (length + kPageSize - 1) / kPageSize);
  input.page_offsets = {0, static_cast<int32_t>(input.page_table.size())};
  input.logit_rows = {length - first - 1};
  return input;
}

std::vector<float> Run(FakeRunner* runner, const ModelInput& input) {
  const LogitsView logits = runner->Run(input);
  return std::vector<float>(logits.data, logits.data + logits.rows * logits.vocab_size);
}

FakeRunner MakeRunner(const FakeRunnerOptions& options = Options()) {
  FakeRunner runner(options);
  EXPECT_FALSE(runner.AllocateKv(16).has_value());
  return runner;
}

const std::vector<int32_t> kTokens = {3, 1, 4, 1, 5, 9, 2, 6, 5};

TEST(FakeLogitsDependOnTheContextAlone) {
  FakeRunner whole = MakeRunner();
  const std::vector<float> expected = Run(&whole, Input(kTokens, 0, {0, 1, 2}));
  FakeRunner chunked = MakeRunner();
  Run(&chunked, Input({3, 1, 4}, 0, {9, 5, 12}));
  Run(&chunked, Input({3, 1, 4, 1, 5, 9, 2}, 3, {9, 5, 12}));
  EXPECT_EQ(Run(&chunked, Input(kTokens, 7, {9, 5, 12})), expected);
  std::vector<int32_t> other = kTokens;
  other[0] = 2;
  EXPECT_NE(Run(&whole, Input(other, 0, {0, 1, 2})), expected);
}

TEST(FakeRunnerSeesAWrongPageTable) {
  FakeRunner runner = MakeRunner();
  const std::vector<float> expected = Run(&runner, Input(kTokens, 0, {0, 1, 2}));
  const std::vector<int32_t> other = {7, 7, 7, 7, 7, 7, 7, 7};
  Run(&runner, Input(other, 0, {3, 4}));
  // A page of another sequence at the right place changes the logits.
  EXPECT_NE(Run(&runner, Input(kTokens, 8, {0, 4, 2})), expected);
  // A page at the wrong place, or one never written, is caught outright.
  EXPECT_THROW(Run(&runner, Input(kTokens, 8, {1, 0, 2})), InvariantError);
  EXPECT_THROW(Run(&runner, Input(kTokens, 8, {0, 15, 2})), InvariantError);
}

TEST(FakeRunnerSeesKvComputedOnAWrongContext) {
  FakeRunner runner = MakeRunner();
  const std::vector<float> expected = Run(&runner, Input(kTokens, 0, {0, 1, 2}));
  // Page 5 holds the right tokens, but they were written after a different first page.
  std::vector<int32_t> other = kTokens;
  other[2] = 8;
  Run(&runner, Input(other, 0, {4, 5, 6}));
  EXPECT_NE(Run(&runner, Input(kTokens, 8, {0, 5, 2})), expected);
}

TEST(FakeRunnerRowsDoNotDependOnTheBatch) {
  FakeRunner runner = MakeRunner();
  const std::vector<float> expected = Run(&runner, Input(kTokens, 0, {0, 1, 2}));
  ModelInput both = Input(kTokens, 0, {0, 1, 2});
  const ModelInput other = Input({8, 8}, 0, {7});
  both.token_ids.insert(both.token_ids.end(), other.token_ids.begin(), other.token_ids.end());
  both.positions.insert(both.positions.end(), other.positions.begin(), other.positions.end());
  both.write_slots.insert(both.write_slots.end(), other.write_slots.begin(),
                          other.write_slots.end());
  both.page_table.push_back(7);
  both.query_offsets.push_back(11);
  both.page_offsets.push_back(4);
  both.logit_rows = {10, 8};
  const std::vector<float> logits = Run(&runner, both);
  EXPECT_EQ(std::vector<float>(logits.begin() + 50, logits.end()), expected);
}

TEST(FakeRunnerMisbehavesOnRequest) {
  FakeRunnerOptions options = Options();
  options.throw_at_step = 1;
  options.poison_token_id = 9;
  options.eos_token_id = 0;
  options.eos_probability = 1.0;
  FakeRunner runner = MakeRunner(options);
  const std::vector<float> logits = Run(&runner, Input({3, 1}, 0, {0}));
  EXPECT_EQ(logits[0], 100.0f);
  EXPECT_THROW(Run(&runner, Input({3, 1}, 0, {0})), std::runtime_error);
  EXPECT_TRUE(std::isnan(Run(&runner, Input({3, 9, 1}, 0, {0}))[7]));
  options.eos_probability = 2.0;
  EXPECT_EQ(options.Validate()->param, "eos_probability");
}

TEST(FakeRunnerForgetsItsPagesWhenItGivesOthers) {
  FakeRunner runner(Options());
  EXPECT_EQ(runner.AllocateKv(0)->code, ErrorCode::kInvalidValue);
  EXPECT_FALSE(runner.AllocateKv(4).has_value());
  Run(&runner, Input({3}, 0, {0}));
  Run(&runner, Input({3, 9}, 1, {0}));
  EXPECT_FALSE(runner.AllocateKv(4).has_value());
  EXPECT_THROW(Run(&runner, Input({3, 9}, 1, {0})), InvariantError);
}

// Applies `spoil` to a good input and returns the field that is blamed.
template <typename Spoil>
std::string Blamed(Spoil spoil) {
  ModelInput input = Input(kTokens, 4, {0, 1, 2});
  EXPECT_FALSE(ValidateModelInput(input, FakeRunner(Options()).info(), 16).has_value());
  spoil(&input);
  const Status status = ValidateModelInput(input, FakeRunner(Options()).info(), 16);
  EXPECT_TRUE(status.has_value());
  return status->param;
}

TEST(ModelInputMistakesAreNamed) {
  EXPECT_EQ(Blamed([](ModelInput* input) { input->Clear(); }), "token_ids");
  EXPECT_EQ(Blamed([](ModelInput* input) { input->token_ids[0] = 50; }), "token_ids");
  EXPECT_EQ(Blamed([](ModelInput* input) { input->token_ids[0] = -1; }), "token_ids");
  EXPECT_EQ(Blamed([](ModelInput* input) { input->positions.pop_back(); }), "positions");
  EXPECT_EQ(Blamed([](ModelInput* input) { input->positions[1] = 4; }), "positions");
  EXPECT_EQ(Blamed([](ModelInput* input) { input->positions[0] = -1; }), "positions");
  EXPECT_EQ(Blamed([](ModelInput* input) { input->write_slots[2] += 1; }), "write_slots");
  EXPECT_EQ(Blamed([](ModelInput* input) { input->query_offsets[1] = 4; }), "query_offsets");
  EXPECT_EQ(Blamed([](ModelInput* input) { input->page_offsets[1] = 4; }), "page_offsets");
  EXPECT_EQ(Blamed([](ModelInput* input) { input->page_offsets.push_back(3); }), "page_offsets");
  EXPECT_EQ(Blamed([](ModelInput* input) { input->page_table[0] = 16; }), "page_table");
  EXPECT_EQ(Blamed([](ModelInput* input) { input->logit_rows[0] = 5; }), "logit_rows");
  EXPECT_EQ(Blamed([](ModelInput* input) { input->logit_rows.clear(); }), "logit_rows");
  EXPECT_EQ(Blamed([](ModelInput* input) {
              // A second sequence that writes to the first one's slots.
              *input = Input({1, 2, 3, 4}, 0, {0});
              input->query_offsets = {0, 2, 4};
              input->page_offsets = {0, 1, 2};
              input->page_table = {0, 0};
              input->positions = {0, 1, 0, 1};
              input->write_slots = {0, 1, 0, 1};
            }),
            "write_slots");
}

}  // namespace
}  // namespace mlc_server::testing
