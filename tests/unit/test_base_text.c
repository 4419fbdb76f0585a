/*
 * What people write and read: sizes, durations, times, JSON, near words.
 */
#include <criterion/criterion.h>

#include <stdlib.h>

#include <qbase/text.h>

static uint64_t
size_of(const char *text)
{
    uint64_t bytes = UINT64_MAX;
    return q_text_parse_size(text, &bytes) == Q_OK ? bytes : UINT64_MAX;
}

static uint64_t
duration_of(const char *text)
{
    uint64_t ns = UINT64_MAX;
    return q_text_parse_duration(text, &ns) == Q_OK ? ns : UINT64_MAX;
}

/* Sizes have decimal and binary units; anything else, and what overflows, is refused. */
Test(base_text, sizes)
{
    cr_assert_eq(size_of("4096"), 4096);
    cr_assert_eq(size_of("0B"), 0);
    cr_assert_eq(size_of("64KiB"), 65536);
    cr_assert_eq(size_of("1GB"), 1000000000);
    cr_assert_eq(size_of("16777215TiB"), UINT64_C(16777215) << 40);
    static const char *const bad[] = {
        "",   "KiB",  "-1",   "+1",          "1.5GiB",
        "1k", "1 KB", "1KBx", "16777216TiB", "18446744073709551616",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_assert_eq(size_of(bad[i]), UINT64_MAX, "%s", bad[i]);
}

/* Durations have units from us to d; a bare number is seconds. */
Test(base_text, durations)
{
    cr_assert_eq(duration_of("50us"), UINT64_C(50000));
    cr_assert_eq(duration_of("250ms"), UINT64_C(250000000));
    cr_assert_eq(duration_of("10s"), UINT64_C(10000000000));
    cr_assert_eq(duration_of("10"), UINT64_C(10000000000));
    cr_assert_eq(duration_of("5m"), UINT64_C(300000000000));
    cr_assert_eq(duration_of("3h"), UINT64_C(10800000000000));
    cr_assert_eq(duration_of("7d"), UINT64_C(604800000000000));
    static const char *const bad[] = { "", "s", "1ns", "1 s", "-1s", "1m30s", "999999999999d" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_assert_eq(duration_of(bad[i]), UINT64_MAX, "%s", bad[i]);
}

/* Numbers are decimal, whole and within bounds; a refusal says which bound. */
Test(base_text, numbers)
{
    uint64_t value = 7;
    cr_assert_eq(q_text_parse_u64("18446744073709551615", 0, UINT64_MAX, &value), Q_OK);
    cr_assert_eq(value, UINT64_MAX);
    cr_assert_eq(q_text_parse_u64("007", 0, 10, &value), Q_OK);
    cr_assert_eq(value, 7);
    cr_assert_eq(q_text_parse_u64("18446744073709551616", 0, UINT64_MAX, &value), Q_INVALID);
    cr_assert_eq(q_text_parse_u64("0x10", 0, 100, &value), Q_INVALID);
    cr_assert_eq(q_text_parse_u64(" 1", 0, 100, &value), Q_INVALID);
    cr_assert_eq(q_text_parse_u64("", 0, 100, &value), Q_INVALID);
    cr_assert_eq(q_text_parse_u64("101", 0, 100, &value), Q_INVALID);
    cr_assert_str_eq(q_fault_last()->what, "101 is not between 0 and 100");
    cr_assert_eq(value, 7);
}

/* Times are ISO 8601 in UTC with milliseconds. */
Test(base_text, times)
{
    char out[25];
    cr_assert_str_eq(q_text_format_time(0, out, sizeof(out)), "1970-01-01T00:00:00.000Z");
    cr_assert_str_eq(
        q_text_format_time(UINT64_C(1768104902113), out, sizeof(out)), "2026-01-11T04:15:02.113Z");
    (void)q_text_format_time(UINT64_MAX, out, sizeof(out));
    cr_assert_lt(strlen(out), sizeof(out));
}

/* Sizes are printed in the largest unit that keeps a whole part, with one digit behind it. */
Test(base_text, size_texts)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        { 0, "0 B" },
        { 1023, "1023 B" },
        { 1024, "1 KiB" },
        { 1536, "1.5 KiB" },
        { UINT64_C(3) << 29, "1.5 GiB" },
        { (UINT64_C(1) << 20) - 1, "1 MiB" },
        { UINT64_MAX, "16 EiB" },
    };
    char out[32];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        cr_assert_str_eq(q_text_format_size(cases[i].bytes, out, sizeof(out)), cases[i].text);
}

static void
assert_json(const char *bytes, size_t size, const char *expected)
{
    char *text = NULL;
    size_t text_size = 0;
    FILE *out = open_memstream(&text, &text_size);
    q_text_write_json(out, q_bytes_from(bytes, size));
    cr_assert_eq(fclose(out), 0);
    cr_assert_str_eq(text, expected);
    free(text);
}

/* Quotes and control characters are escaped; good UTF-8 passes; bad bytes are replaced. */
Test(base_text, json)
{
#define BAD "\xEF\xBF\xBD"
    assert_json("a\"b\\c\n\r\t\x01\x7f", 10, "\"a\\\"b\\\\c\\n\\r\\t\\u0001\x7f\"");
    assert_json("nul\0", 4, "\"nul\\u0000\"");
    assert_json(
        "\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80", 9, "\"\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80\"");
    assert_json("\xFF!", 2, "\"" BAD "!\"");
    assert_json("\xE2\x82", 2, "\"" BAD BAD "\"");                 /* cut off */
    assert_json("\xC0\x80", 2, "\"" BAD BAD "\"");                 /* overlong */
    assert_json("\xE0\x80\x80", 3, "\"" BAD BAD BAD "\"");         /* overlong */
    assert_json("\xF0\x80\x80\x80", 4, "\"" BAD BAD BAD BAD "\""); /* overlong */
    assert_json("\xED\xA0\x80", 3, "\"" BAD BAD BAD "\"");         /* surrogate */
    assert_json("\xF4\x90\x80\x80", 4, "\"" BAD BAD BAD BAD "\""); /* above U+10FFFF */
    assert_json(NULL, 0, "\"\"");
#undef BAD
}

/* The nearest word is found for a slip of a letter or two, and nothing for another word. */
Test(base_text, nearest)
{
    static const char *const words[] = { "send", "receive", "subjects", "groups", "doctor" };
    size_t count = sizeof(words) / sizeof(words[0]);
    cr_assert_str_eq(q_text_nearest("sned", words, count), "send");
    cr_assert_str_eq(q_text_nearest("recieve", words, count), "receive");
    cr_assert_str_eq(q_text_nearest("subject", words, count), "subjects");
    cr_assert_str_eq(q_text_nearest("gruop", words, count), "groups");
    cr_assert_null(q_text_nearest("publish", words, count));
    cr_assert_null(q_text_nearest("x", words, count));
    cr_assert_null(q_text_nearest("", words, count));
    char longer[200];
    memset(longer, 'a', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    cr_assert_null(q_text_nearest(longer, words, count));
}
