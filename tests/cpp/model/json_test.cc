#include "model/json.h"

#include <limits>
#include <string>
#include <vector>

#include "model/field_reader.h"
#include "support/cpp_test.h"

namespace mlc_server {
namespace {

JsonValue Parse(const std::string& text) {
  Result<JsonValue> result = ParseJson(text, "test");
  if (!result.ok()) {
    throw testing::ExpectationFailed(text + " was refused: " + result.error().message);
  }
  return std::move(result).value();
}

std::string ParseString(const std::string& text) { return Parse(text).AsString(); }

bool IsRefused(const std::string& text) { return !ParseJson(text, "test").ok(); }

TEST(JsonReadsEveryKindOfValue) {
  const JsonValue document =
      Parse(R"( {"a": [1, -2, 3.5e1, true, false, null], "b": {"c": "x"}} )");
  const JsonValue::Array& items = document.Find("a")->AsArray();
  EXPECT_EQ(items[0].AsInt(), 1);
  EXPECT_EQ(items[1].AsInt(), -2);
  EXPECT_EQ(items[2].AsDouble(), 35.0);
  EXPECT_TRUE(items[3].AsBool());
  EXPECT_FALSE(items[4].AsBool());
  EXPECT_EQ(items[5].kind(), JsonValue::Kind::kNull);
  EXPECT_EQ(document.Find("b")->Find("c")->AsString(), std::string("x"));
  EXPECT_TRUE(document.Find("absent") == nullptr);
}

TEST(JsonReadsIntegersToTheirLimits) {
  EXPECT_EQ(Parse("9223372036854775807").AsInt(), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(Parse("-9223372036854775808").AsInt(), std::numeric_limits<int64_t>::min());
  EXPECT_TRUE(IsRefused("9223372036854775808"));
  EXPECT_TRUE(IsRefused("1e999"));
}

TEST(JsonDecodesEscapesToUtf8) {
  EXPECT_EQ(ParseString(R"("\"\\\/\b\f\n\r\t")"), std::string("\"\\/\b\f\n\r\t"));
  EXPECT_EQ(ParseString(R"("\u0041\u00e9\u20ac\ud83d\ude00")"),
            std::string("A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"));
  EXPECT_EQ(ParseString(R"("\u0000")"), std::string(1, '\0'));
}

TEST(JsonRefusesWhatIsNotJson) {
  const std::vector<std::string> texts = {"",
                                          " ",
                                          "{",
                                          "[1,]",
                                          "{\"a\":1,}",
                                          "{\"a\" 1}",
                                          "{a:1}",
                                          "[1 2]",
                                          "01",
                                          "-",
                                          "+1",
                                          ".5",
                                          "1.",
                                          "1e",
                                          "NaN",
                                          "Infinity",
                                          "tru",
                                          "nulll",
                                          "\"",
                                          "\"\\x\"",
                                          "\"\\u12g4\"",
                                          "\"\n\"",
                                          "1 2",
                                          "[1]]",
                                          "// c\n1",
                                          "'a'",
                                          "\"\\ud800\"",
                                          "\"\\udc00\"",
                                          "\"\\ud800\\u0041\"",
                                          "{\"a\":1,\"a\":2}",
                                          std::string("1\0", 2)};
  for (const std::string& text : texts) {
    if (!IsRefused(text)) {
      testing::Fail(__FILE__, __LINE__, "accepted: " + text);
    }
  }
}

TEST(JsonBoundsDepthAndSize) {
  JsonLimits limits;
  limits.depth_max = 3;
  limits.bytes_max = 16;
  EXPECT_TRUE(ParseJson("[[[1]]]", "test", limits).ok());
  EXPECT_FALSE(ParseJson("[[[[1]]]]", "test", limits).ok());
  EXPECT_FALSE(ParseJson("[1,2,3,4,5,6,7,8]", "test", limits).ok());
  EXPECT_TRUE(IsRefused(std::string(1000000, '[')));
}

TEST(JsonErrorsNameSourceAndPlace) {
  const Error error = ParseJson("[1, x]", "some-file.json").error();
  EXPECT_EQ(error.code, ErrorCode::kIncompatible);
  EXPECT_EQ(error.message,
            std::string("some-file.json: not valid JSON: expected a value at byte 4"));
  const Error missing = ReadJsonFile("/nonexistent/file.json").error();
  EXPECT_EQ(missing.code, ErrorCode::kNotFound);
}

TEST(FieldReaderKeepsTheFirstError) {
  const JsonValue document = Parse(R"({"n": 5, "s": "x", "list": [1, "two"], "words": ["a"]})");
  FieldReader good(document, "file", "at");
  EXPECT_EQ(good.Int("n", 0, 5), 5);
  EXPECT_EQ(good.String("s"), std::string("x"));
  EXPECT_EQ(good.Strings("words").size(), size_t{1});
  EXPECT_FALSE(good.status().has_value());

  FieldReader bad(document, "file", "at");
  EXPECT_EQ(bad.Int("n", 6, 9), 6);
  EXPECT_EQ(bad.String("missing"), std::string());
  EXPECT_EQ(bad.status()->message, std::string("file: at.n is 5, expected 6 to 9"));

  FieldReader list(document, "file", "");
  list.Ints("list", 0, 10);
  EXPECT_EQ(list.status()->message, std::string("file: list[1] is a string, expected an integer"));

  FieldReader no_object(document.Find("list")[0], "file", "at");
  EXPECT_EQ(no_object.Int("n", 1, 2), 1);
  EXPECT_EQ(no_object.status()->message, std::string("file: at is an array, expected an object"));
}

}  // namespace
}  // namespace mlc_server
