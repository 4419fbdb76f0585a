/*
 * Records as text and as JSON: what a name or a body holds can be had back from what is printed.
 */
#include <stdlib.h>
#include <string.h>

#include <criterion/criterion.h>

#include "format/record.h"

static char printed[512];

/* A record of a program's own with these bytes, as it is printed. */
static const char *
describe(const char *bytes, bool json)
{
    size_t size = strlen(bytes);
    uint32_t record_size = ql_bytes_record_size((uint32_t)size);
    uint8_t *data = calloc(1, record_size);
    ql_bytes_record_encode(q_bytes_from(bytes, size), data);
    struct ql_record record = { .kind = QL_RECORD_BYTES, .bytes = q_bytes_from(data, record_size) };
    cr_assert(ql_record_describe(&record, json, printed, sizeof(printed)));
    free(data);
    char *value = strstr(printed, json ? "\"bytes\":" : "bytes=");
    cr_assert_not_null(value);
    return strchr(value, json ? ':' : '=') + 1;
}

Test(storage_format, utf8_passes)
{
    cr_assert_str_eq(
        describe("caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x8e\xab", true),
        "\"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x8e\xab\"");
    cr_assert_str_eq(describe("caf\xc3\xa9", false), "caf\xc3\xa9");
}

/* Each byte that is not UTF-8 has a sign of its own, which no text has. */
Test(storage_format, other_bytes_can_be_had_back)
{
    cr_assert_str_eq(describe("a\xe9z", true), "\"a\\udce9z\"");
    cr_assert_str_eq(describe("\xc3", true), "\"\\udcc3\"");
    cr_assert_str_eq(describe("\xed\xb3\xa9", true), "\"\\udced\\udcb3\\udca9\"");
    cr_assert_str_eq(describe("a\xe9z", false), "a\\xe9z");
}

Test(storage_format, controls_are_escaped)
{
    cr_assert_str_eq(describe("a\"b\\c\n\x7f", true), "\"a\\u0022b\\u005cc\\u000a\\u007f\"");
    cr_assert_str_eq(
        describe(
            "\xc2\x9b"
            "31m",
            true),
        "\"\\u009b31m\"");
    cr_assert_str_eq(describe("\x1b[31m\xc2\x9b\\", false), "\\x1b[31m\\xc2\\x9b\\x5c");
}
