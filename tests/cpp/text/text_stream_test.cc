#include "text/text_stream.h"

#include <chrono>
#include <random>

#include "base/check.h"
#include "reference_text.h"
#include "support/cpp_test.h"

namespace mlc_server {
namespace {

using testing::Decode;
using testing::FindStop;
using testing::HeldSize;
using testing::StopMatch;

// One token per byte value: token id == byte; id 256 is special.
const Vocabulary& Bytewise() {
  static const Vocabulary vocabulary = [] {
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) {
      tokens.push_back(std::string(1, static_cast<char>(byte)));
    }
    tokens.push_back("<|special|>");
    std::vector<bool> special(257, false);
    special[256] = true;
    return Vocabulary(tokens, special);
  }();
  return vocabulary;
}

// The text of each Append(), then of Flush(), separated by '|'.
std::string Trace(const std::string& bytes, std::vector<std::string> stops,
                  bool include_stop = false) {
  TextStream stream(&Bytewise(), std::move(stops), include_stop);
  std::string trace;
  for (const char c : bytes) {
    trace += stream.Append(static_cast<uint8_t>(c)) + "|";
  }
  return trace + stream.Flush();
}

TEST(VocabularyKnowsItsTokens) {
  EXPECT_EQ(Bytewise().size(), 257);
  EXPECT_EQ(Bytewise().Bytes(65), "A");
  EXPECT_TRUE(Bytewise().IsSpecial(256));
  EXPECT_FALSE(Bytewise().IsSpecial(65));
  for (int32_t outside : {-1, 257, 1 << 30}) {
    EXPECT_EQ(Bytewise().Bytes(outside), "");
    EXPECT_FALSE(Bytewise().IsSpecial(outside));
  }
  EXPECT_THROW(Vocabulary({"a", "b"}, {false}), InvariantError);
}

TEST(StopStringsThatMayNotMatchYetAreText) {
  const auto trace = [](const std::string& bytes, std::vector<std::string> stops, size_t first) {
    TextStream stream(&Bytewise(), std::move(stops), false);
    std::string trace;
    for (size_t i = 0; i < bytes.size(); ++i) {
      trace += stream.Append(static_cast<uint8_t>(bytes[i]), i >= first) + "|";
    }
    return trace + stream.Flush() + (stream.matched_stop() >= 0 ? "." : "");
  };
  EXPECT_EQ(trace("xabyabz", {"ab"}, 7), "x|||aby|||abz|");
  EXPECT_EQ(trace("xab", {"ab"}, 7), "x|||ab");
  EXPECT_EQ(trace("xabyabz", {"ab"}, 3), "x|||aby||||.");
  EXPECT_EQ(trace("xab", {"ab"}, 2), "x|||.");  // begun before, complete in time
  EXPECT_EQ(trace("aaa", {"a", "aa"}, 2), "||a|.");
}

TEST(CharactersAreEmittedWhole) {
  EXPECT_EQ(Trace("a\xC3\xA9z", {}), "a||\xC3\xA9|z|");
  EXPECT_EQ(Trace("\xF0\x9F\x98\x80", {}), "|||\xF0\x9F\x98\x80|");
  EXPECT_EQ(Trace("\xF0\x9F", {}), "||\xEF\xBF\xBD");
}

TEST(OnlyPossibleStopPrefixesAreHeldBack) {
  EXPECT_EQ(Trace("abc", {"bd"}), "a||bc|");
  EXPECT_EQ(Trace("aab", {"aac"}), "||aab|");
  EXPECT_EQ(Trace("aaac", {"aac"}), "||a||");
  EXPECT_EQ(Trace("ab", {"bc"}), "a||b");
}

TEST(TextIsCutAtTheStartOfTheStopString) {
  EXPECT_EQ(Trace("hi\n\nyou", {"\n\n"}), "h|i||||||");
  EXPECT_EQ(Trace("hi\n\nyou", {"\n\n"}, true), "h|i||\n\n||||");
}

TEST(MatchThatCompletesFirstWinsThenTheLongest) {
  EXPECT_EQ(Trace("xabcd", {"abcd", "bc"}), "x|||a||");
  EXPECT_EQ(Trace("xabc", {"c", "abc", "bc"}), "x||||");
  TextStream stream(&Bytewise(), {"c", "abc", "abc"}, false);
  for (const char c : std::string("abc")) {
    EXPECT_EQ(stream.matched_stop(), -1);
    stream.Append(c);
  }
  EXPECT_EQ(stream.matched_stop(), 1);
}

TEST(IncompleteCharacterBeforeAStopStringIsReplaced) {
  EXPECT_EQ(Trace("\xE2\x82!", {"!"}), "||\xEF\xBF\xBD|");
}

TEST(MultiByteStopStringsMatchAcrossTokens) {
  EXPECT_EQ(Trace("a\xE3\x80\x82z", {"\xE3\x80\x82"}),
            "a||||"
            "|");
  // Shares two bytes with the stop string, then is another character.
  EXPECT_EQ(Trace("\xE3\x80\x81", {"\xE3\x80\x82"}), "||\xE3\x80\x81|");
}

TEST(SpecialTokensAndUnknownIdsAreSilent) {
  TextStream stream(&Bytewise(), {"ab"}, false);
  EXPECT_EQ(stream.Append('a'), "");
  EXPECT_EQ(stream.Append(256), "");
  EXPECT_EQ(stream.Append(-1), "");
  EXPECT_EQ(stream.Append(9999), "");
  EXPECT_EQ(stream.Append('c'), "ac");
}

TEST(OneLeadingSpaceIsStripped) {
  for (const std::string& bytes : {std::string("  a"), std::string(" a"), std::string("a ")}) {
    TextStream stream(&Bytewise(), {}, false, /*strip_leading_space=*/true);
    std::string text = stream.Append(256);
    for (const char c : bytes) {
      text += stream.Append(c);
    }
    text += stream.Flush();
    EXPECT_EQ(text, bytes[0] == ' ' ? bytes.substr(1) : bytes);
  }
}

TEST(NothingFollowsTheEnd) {
  TextStream flushed(&Bytewise(), {"ab"}, false);
  flushed.Append('a');
  EXPECT_EQ(flushed.Flush(), "a");
  EXPECT_EQ(flushed.Append('b'), "");
  EXPECT_EQ(flushed.Flush(), "");
  EXPECT_EQ(flushed.matched_stop(), -1);
}

TEST(EmptyStopStringIsABrokenInvariant) {
  EXPECT_THROW(TextStream(&Bytewise(), {"a", ""}, false), InvariantError);
}

// Random vocabularies over few bytes, so that stop strings nearly match all the time.
struct RandomCase {
  std::vector<std::string> tokens;
  std::vector<bool> special;
  std::vector<std::string> stops;
  std::vector<int32_t> ids;
};

RandomCase MakeCase(std::mt19937* rng) {
  const auto below = [rng](int n) { return static_cast<int>((*rng)() % n); };
  const std::vector<std::string> alphabets = {"ab", "ab\n", "a\xC3\xA9\xE2\x82\xAC",
                                              "\xF0\x9F\x98\x80\x81", "\xE3\x80\x81\x82\xFF z"};
  const std::string& alphabet = alphabets[below(static_cast<int>(alphabets.size()))];
  const auto random_bytes = [&](int max_size) {
    std::string bytes;
    for (int size = 1 + below(max_size); size > 0; --size) {
      bytes += alphabet[below(static_cast<int>(alphabet.size()))];
    }
    return bytes;
  };
  RandomCase result;
  const int num_tokens = 2 + below(12);
  for (int i = 0; i < num_tokens; ++i) {
    result.tokens.push_back(below(8) == 0 ? "" : random_bytes(5));
    result.special.push_back(below(8) == 0);
  }
  for (int i = below(5); i > 0; --i) {
    result.stops.push_back(random_bytes(6));
  }
  for (int i = below(30); i > 0; --i) {
    result.ids.push_back(below(num_tokens + 1));  // one id lies outside the vocabulary
  }
  return result;
}

TEST(EveryPrefixIsWhatTheReferenceIsCertainOf) {
  std::mt19937 rng(20);
  int matches = 0;
  for (int round = 0; round < 30000; ++round) {
    const RandomCase c = MakeCase(&rng);
    const bool include_stop = round % 2 == 0;
    const Vocabulary vocabulary(c.tokens, c.special);
    TextStream stream(&vocabulary, c.stops, include_stop);
    std::string bytes;
    std::string text;
    for (const int32_t id : c.ids) {
      if (!vocabulary.IsSpecial(id)) {
        bytes += vocabulary.Bytes(id);
      }
      text += stream.Append(id);
      const StopMatch match = FindStop(bytes, c.stops);
      EXPECT_EQ(stream.matched_stop(), match.index);
      const std::string certain =
          match.index >= 0 ? Decode(bytes.substr(0, include_stop ? match.end : match.begin))
                           : Decode(bytes.substr(0, bytes.size() - HeldSize(bytes, c.stops)), true);
      EXPECT_EQ(text, certain);
    }
    text += stream.Flush();
    const StopMatch match = FindStop(bytes, c.stops);
    const size_t end = include_stop ? match.end : match.begin;
    EXPECT_EQ(text, Decode(match.index >= 0 ? bytes.substr(0, end) : bytes));
    matches += match.index >= 0 ? 1 : 0;
  }
  EXPECT_GT(matches, 5000);
  EXPECT_LT(matches, 25000);
}

// A stop string that is about to match for ever. Quadratic matching would take minutes.
TEST(TimeIsLinearInTheBytes) {
  std::vector<std::string> stops;
  for (int i = 0; i < 16; ++i) {
    stops.push_back(std::string(1000 + i, 'a') + "b");
  }
  TextStream stream(&Bytewise(), stops, false);
  const auto start = std::chrono::steady_clock::now();
  size_t emitted = 0;
  constexpr size_t kBytes = 2000000;
  for (size_t i = 0; i < kBytes; ++i) {
    emitted += stream.Append(i % 3000 == 2999 ? 'c' : 'a').size();
  }
  emitted += stream.Flush().size();
  EXPECT_EQ(emitted, kBytes);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_LT(seconds.count(), 20.0);
}

}  // namespace
}  // namespace mlc_server
